//! What a step asks: made up by the dice.

use std::fmt;

use serde_json::{Value, json};

use super::{Dice, Known};
use crate::transcript::output;
use crate::world::user;

/// What shapes an answer beside the conversation. All of it may change along a chain.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    model: String,
    instructions: Option<usize>,
    /// How many tools.
    tools: usize,
    format: bool,
    effort: Option<&'static str>,
    summary: bool,
    verbosity: Option<&'static str>,
    tier: Option<&'static str>,
}

/// One of `choices`.
fn one_of<T: Clone>(dice: &mut Dice, choices: &[T]) -> T {
    choices[dice.below(choices.len())].clone()
}

impl Settings {
    fn new(dice: &mut Dice, models: &[String]) -> Self {
        let mut settings = Self {
            model: models[0].clone(),
            instructions: None,
            tools: 0,
            format: false,
            effort: None,
            summary: false,
            verbosity: None,
            tier: None,
        };
        for _ in 0..dice.below(4) {
            settings.change(dice, models);
        }
        settings
    }

    /// Changes one of them.
    fn change(&mut self, dice: &mut Dice, models: &[String]) {
        match dice.below(8) {
            0 => self.model = one_of(dice, models),
            1 => self.instructions = one_of(dice, &[None, Some(1), Some(2)]),
            2 => self.tools = dice.below(3),
            3 => self.format = !self.format,
            4 => self.effort = one_of(dice, &[None, Some("low"), Some("high")]),
            5 => self.summary = !self.summary,
            6 => self.verbosity = one_of(dice, &[None, Some("low"), Some("high")]),
            _ => self.tier = one_of(dice, &[None, Some("flex")]),
        }
    }

    pub(super) fn instructions(&self) -> Option<String> {
        self.instructions.map(|number| format!("Instructions, number {number}."))
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A request, and what the model must be given for it.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) body: Value,
    /// Everything said, the request's input included; without the instructions.
    pub(super) said: Vec<Value>,
    /// In the input, and nowhere else.
    pub(super) mark: String,
    pub(super) settings: Settings,
    pub(super) stored: bool,
    /// It has no outputs for the calls before it.
    pub(super) leaves_calls_open: bool,
}

impl Draft {
    pub(super) fn new(dice: &mut Dice, models: &[String], previous: Option<&Known>, mark: String) -> Self {
        let mut settings = match previous {
            Some(previous) => previous.settings.clone(),
            None => Settings::new(dice, models),
        };
        if dice.below(3) == 0 {
            settings.change(dice, models);
        }
        let open = previous.map(|previous| &previous.open[..]).unwrap_or_default();
        let leaves_calls_open = !open.is_empty() && dice.below(8) == 0;
        let mut input = Vec::new();
        if !leaves_calls_open {
            let outputs = open.iter().enumerate();
            input.extend(outputs.map(|(n, call_id)| output(call_id, &format!("{mark} output {n}"))));
        }
        if input.is_empty() || dice.below(2) == 0 {
            let text = directive(dice, &mut settings, &mark);
            input.push(user(&format!("{mark} {text}")));
        }
        let stored = dice.below(4) > 0;
        let mut said = previous.map(|previous| previous.items.clone()).unwrap_or_default();
        let body = body(&settings, previous, &input, stored);
        said.extend(input);
        Self { body, said, mark, settings, stored, leaves_calls_open }
    }

    /// Puts another user text in place of its input.
    pub(super) fn say(&mut self, text: &str) {
        let input = user(&format!("{} {text}", self.mark));
        let items = self.body["input"].as_array().map_or(0, Vec::len);
        self.said.truncate(self.said.len() - items);
        self.said.push(input.clone());
        self.body["input"] = json!([input]);
    }
}

/// What the model is to do; offers the tools that this takes.
fn directive(dice: &mut Dice, settings: &mut Settings, mark: &str) -> String {
    let answer =
        if settings.format { format!("JSON {{\"a\": \"{mark}\"}}") } else { format!("SAY re {mark}") };
    match dice.below(10) {
        0..5 => answer,
        5..7 => format!("THINK \"why {mark}\" {answer}"),
        7..9 => {
            settings.tools = settings.tools.max(1);
            format!("CALLTOOL look {{\"at\": \"{mark}\"}}")
        }
        _ => {
            settings.tools = 2;
            format!("CALLTOOL look {{\"at\": \"{mark}\"}} CALLTOOL listen {{}}")
        }
    }
}

fn body(settings: &Settings, previous: Option<&Known>, input: &[Value], stored: bool) -> Value {
    let mut body = json!({
        "model": settings.model, "input": input, "store": stored, "include": ["reasoning.encrypted_content"],
    });
    if let Some(previous) = previous {
        body["previous_response_id"] = previous.id.as_str().into();
    }
    if let Some(instructions) = settings.instructions() {
        body["instructions"] = instructions.into();
    }
    let tools = ["look", "listen"].iter().take(settings.tools).map(|name| {
        let parameters = json!({"type": "object", "properties": {"at": {"type": "string"}}});
        json!({"type": "function", "name": name, "description": format!("{name} at it"), "parameters": parameters, "strict": false})
    });
    if settings.tools > 0 {
        body["tools"] = tools.collect();
    }
    if settings.format {
        let schema = json!({
            "type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false,
        });
        body["text"]["format"] =
            json!({"type": "json_schema", "name": "a", "strict": true, "schema": schema});
    }
    if let Some(verbosity) = settings.verbosity {
        body["text"]["verbosity"] = verbosity.into();
    }
    if let Some(effort) = settings.effort {
        body["reasoning"]["effort"] = effort.into();
    }
    if settings.summary {
        body["reasoning"]["summary"] = "auto".into();
    }
    if let Some(tier) = settings.tier {
        body["service_tier"] = tier.into();
    }
    body
}
