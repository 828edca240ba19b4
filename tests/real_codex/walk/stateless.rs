//! Clients without state: each request brings its whole conversation, through either API. It goes on in a warm thread,
//! on a fork of a template or on a fresh thread; the model is given the same, but that a warm thread has its own
//! reasoning, which such a client does not send back.

use serde_json::{Value, json};

use super::Walk;
use crate::transcript::{assistant, input_of, settings_of};
use crate::world::user;

/// Conversations that are kept.
const TALKS: usize = 6;
/// Longest conversation, items.
const LONGEST: usize = 16;

/// A conversation that its client keeps.
#[derive(Debug, Clone, Default)]
pub(super) struct Talk {
    model: String,
    /// Long ones, which are worth a template.
    instructions: Option<usize>,
    /// Messages alone, by turns the client's and the model's.
    items: Vec<Value>,
}

impl Talk {
    fn instructions(&self) -> Option<String> {
        self.instructions.map(|number| format!("Instructions of a talk, number {number}. ").repeat(20))
    }

    /// The request, and the path it is for.
    fn request(&self, chat: bool) -> (&'static str, Value) {
        if chat {
            let system = self.instructions().map(|text| json!({"role": "system", "content": text}));
            let said = self
                .items
                .iter()
                .map(|item| json!({"role": item["role"], "content": item["content"][0]["text"]}));
            let messages: Vec<Value> = system.into_iter().chain(said).collect();
            return ("/v1/chat/completions", json!({"model": self.model, "messages": messages}));
        }
        let mut body = json!({"model": self.model, "input": self.items, "store": false});
        if let Some(text) = self.instructions() {
            body["instructions"] = text.into();
        }
        ("/v1/responses", body)
    }
}

/// The text of an answer.
fn text(answer: &Value) -> &str {
    let message =
        answer["output"].as_array().and_then(|output| output.iter().find(|item| item["type"] == "message"));
    let text = match message {
        Some(message) => &message["content"][0]["text"],
        None => &answer["choices"][0]["message"]["content"],
    };
    text.as_str().expect("a text")
}

impl Walk {
    pub(super) async fn stateless(&mut self) {
        self.ground.world.standin.clear_requests();
        let at = self.dice.below(TALKS);
        let mut talk = match self.talks.get(at) {
            Some(talk) if talk.items.len() < LONGEST => talk.clone(),
            _ => {
                let model = self.models[self.dice.below(self.models.len())].clone();
                let instructions = [None, Some(1), Some(2)][self.dice.below(3)];
                Talk { model, instructions, items: Vec::new() }
            }
        };
        if self.dice.below(4) == 0 {
            // Another way on from an earlier turn.
            talk.items.truncate(2 * self.dice.below(talk.items.len() / 2 + 1));
        }
        let mark = format!("m{}s.", self.step);
        let thinks = if self.dice.below(3) == 0 { format!("THINK \"why {mark}\" ") } else { String::new() };
        talk.items.push(user(&format!("{mark} {thinks}SAY re {mark}")));
        let chat = self.dice.below(2) == 0;
        let (path, body) = talk.request(chat);
        let answer = self.ground.world.client.post(path, &body).await;
        assert_eq!(answer.status, 200, "step {}: {}\n{body}", self.step, answer.text);
        let said = answer.json();
        assert_eq!(text(&said), format!("re {mark}"), "step {}", self.step);

        let seen = self.ground.world.seen_with(&mark);
        assert!(!seen.is_empty(), "step {}: nothing reached the model", self.step);
        let instructions = talk.instructions().map(|text| {
            json!({"type": "message", "role": "developer", "content": [{"type": "input_text", "text": text}]})
        });
        let expected: Vec<&Value> = instructions.iter().chain(&talk.items).collect();
        for seen in &seen {
            let input = input_of(seen);
            let input: Vec<&Value> = input.iter().filter(|item| item["type"] != "reasoning").collect();
            assert_eq!(input, expected, "step {}: {body}", self.step);
            let asked = settings_of(seen);
            let kind = format!("{path} {}", talk.model);
            let first = self.bodies.entry(kind).or_insert_with(|| asked.clone());
            assert_eq!(asked, *first, "step {}: {body}", self.step);
        }
        talk.items.push(assistant(text(&said)));
        match self.talks.get_mut(at) {
            Some(kept) => *kept = talk,
            None => self.talks.push(talk),
        }
    }
}
