//! A model check: a random walk of all that can happen to a conversation, against the real binary. The walk keeps
//! its own transcript of each response; after each step the model must have been given exactly that.
//!
//! `WALK_STEPS` is how many steps all walks take together, `WALK_SEED` the seed of a walk to take again; each walk
//! prints its own.

mod ground;
mod request;
mod stateless;

use std::collections::HashMap;
use std::time::SystemTime;

use codex_bridge::model::{KeyId, ResponseId};
use codex_bridge::store::Lookup;
use futures_util::future::join_all;
use serde_json::Value;

use self::ground::Ground;
use self::request::{Draft, Settings};
use self::stateless::Talk;
use crate::http::Answer;
use crate::transcript::{input_of, items_of, settings_of};
use crate::world::On;

/// Steps of all walks together, unless `WALK_STEPS` says otherwise.
const STEPS: usize = 500;
/// Longest conversation that is continued, items.
const LONGEST: usize = 40;
/// How far back a response counts as recent.
const RECENT: usize = 10;

#[tokio::test]
async fn a_random_walk_plain() {
    Box::pin(walk(Ground::supervised(On::Plain).await, 2)).await;
}

#[tokio::test]
async fn a_random_walk_logged_in() {
    Box::pin(walk(Ground::supervised(On::LoggedIn).await, 2)).await;
}

#[tokio::test]
async fn a_random_walk_before_an_app_server_of_somebody_elses() {
    Box::pin(walk(Box::pin(Ground::connected()).await, 1)).await;
}

/// Takes `share` fifths of the steps.
#[expect(clippy::print_stdout, reason = "the seed is for whoever takes the walk again")]
async fn walk(ground: Ground, share: usize) {
    let number = |name: &str| variable(name).map(|text| text.parse::<u64>().expect("a number"));
    let steps =
        number("WALK_STEPS").map_or(STEPS, |steps| usize::try_from(steps).expect("a number of steps"));
    let seed = number("WALK_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 20 ^ now_ms());
    println!("WALK_SEED={seed}");
    let mut walk = Walk {
        models: ground.world.models().await.into_iter().take(3).collect(),
        ground,
        dice: Dice(seed),
        known: Vec::new(),
        talks: Vec::new(),
        bodies: HashMap::new(),
        step: 0,
        taken: Vec::new(),
    };
    for _ in 0..(steps * share).div_ceil(5) {
        walk.step().await;
    }
    let mut taken = walk.taken;
    taken.sort_unstable();
    let kinds: Vec<String> =
        taken.chunk_by(|one, other| one == other).map(|same| format!("{} {}", same.len(), same[0])).collect();
    println!("WALK_SEED={seed}: {}", kinds.join(", "));
    walk.ground.end().await;
}

/// A response, as far as the walk knows.
#[derive(Debug, Clone)]
struct Known {
    id: String,
    /// Everything said, itself included.
    items: Vec<Value>,
    /// Calls that have no output yet.
    open: Vec<String>,
    settings: Settings,
    stored: bool,
    /// Expired, deleted or lost.
    gone: bool,
}

struct Walk {
    ground: Ground,
    models: Vec<String>,
    dice: Dice,
    known: Vec<Known>,
    /// Conversations of clients that keep them themselves.
    talks: Vec<Talk>,
    /// What is asked of the model beside its items, by settings: the same each time, whatever the way.
    bodies: HashMap<String, Value>,
    step: usize,
    /// What was done, for the record.
    taken: Vec<&'static str>,
}

impl Walk {
    async fn step(&mut self) {
        self.step += 1;
        let kind = match self.dice.below(100) {
            0..10 => "new",
            10..22 => "stateless",
            22..48 => "continue",
            48..60 => "continue an old one",
            60..70 => "branch",
            70..74 => "expire",
            74..78 => "delete",
            78..80 => "restart the bridge",
            80..82 => "kill the app-server",
            82..84 => "drop the socket",
            84..87 => "evict",
            87..91 => "fail",
            91..94 => "leave",
            94..97 => "cut",
            _ => "unknown",
        };
        self.taken.push(kind);
        match kind {
            "new" => self.run(vec![None]).await,
            "continue" => {
                let from = self.pick(RECENT);
                self.run(vec![from]).await;
            }
            "continue an old one" => {
                let from = self.pick(usize::MAX);
                self.run(vec![from]).await;
            }
            "branch" => {
                let (from, branches) = (self.pick(RECENT), 2 + self.dice.below(2));
                self.run(vec![from; branches]).await;
            }
            "stateless" => self.stateless().await,
            "expire" => self.expire().await,
            "delete" => self.delete().await,
            "restart the bridge" => {
                self.ground.world.restart().await;
                self.known.iter_mut().filter(|known| !known.stored).for_each(|known| known.gone = true);
            }
            "kill the app-server" => self.ground.kill_app_server().await,
            "drop the socket" => self.ground.drop_socket().await,
            "evict" => {
                for _ in 0..ground::WARM_THREADS {
                    self.run(vec![None]).await;
                }
            }
            "fail" => self.fail().await,
            "leave" => self.leave().await,
            "cut" => self.cut().await,
            _ => self.unknown().await,
        }
    }

    /// One of the last `reach` responses that is not too long; rarely one that is gone.
    fn pick(&mut self, reach: usize) -> Option<usize> {
        let first = self.known.len().saturating_sub(reach);
        let takes_gone = self.dice.below(8) == 0;
        let fits = |known: &Known| known.items.len() < LONGEST && (takes_gone || !known.gone);
        let fitting: Vec<usize> = (first..self.known.len()).filter(|at| fits(&self.known[*at])).collect();
        if fitting.is_empty() { None } else { Some(fitting[self.dice.below(fitting.len())]) }
    }

    fn draft(&mut self, from: Option<usize>, branch: usize) -> Draft {
        let mark = format!("m{}b{branch}.", self.step * 10 + self.taken.len() % 10);
        let previous = from.map(|at| self.known[at].clone());
        Draft::new(&mut self.dice, &self.models, previous.as_ref(), mark)
    }

    /// Runs all at once: what each continues, or `None`.
    async fn run(&mut self, from: Vec<Option<usize>>) {
        self.ground.world.standin.clear_requests();
        let mut drafts = Vec::new();
        for (branch, from) in from.into_iter().enumerate() {
            drafts.push((from, self.draft(from, branch)));
        }
        let client = self.ground.world.client.clone();
        let answers =
            join_all(drafts.iter().map(|(_, draft)| client.post("/v1/responses", &draft.body))).await;
        for ((from, draft), answer) in drafts.into_iter().zip(answers) {
            if from.is_some_and(|at| self.known[at].gone) {
                self.assert_missing(&answer);
            } else if draft.leaves_calls_open {
                assert_eq!(answer.status, 400, "{}", answer.text);
                assert!(answer.text.contains("No tool output found"), "{}", answer.text);
            } else {
                self.take_in(draft, &answer);
            }
        }
    }

    /// A good answer: what reached the model, and what is said from now on.
    fn take_in(&mut self, draft: Draft, answer: &Answer) {
        assert_eq!(answer.status, 200, "step {}: {}\n{}", self.step, answer.text, draft.body);
        self.check(&draft);
        let response = answer.json();
        let output = items_of(&response);
        let calls = output.iter().filter(|item| item["type"] == "function_call");
        let open = calls.map(|call| call["call_id"].as_str().expect("an id").to_owned()).collect();
        let mut items = draft.said;
        items.extend(output);
        let id = response["id"].as_str().expect("an id").to_owned();
        let Draft { settings, stored, .. } = draft;
        self.known.push(Known { id, items, open, settings, stored, gone: false });
    }

    /// What reached the model is what was said, asked for as always.
    fn check(&mut self, draft: &Draft) {
        let seen = self.ground.world.seen_with(&draft.mark);
        assert!(!seen.is_empty(), "step {}: nothing reached the model", self.step);
        let instructions = draft.settings.instructions().map(|text| {
            serde_json::json!({"type": "message", "role": "developer", "content": [{"type": "input_text", "text": text}]})
        });
        let expected: Vec<&Value> = instructions.iter().chain(&draft.said).collect();
        for seen in &seen {
            let input = input_of(seen);
            assert_eq!(input.iter().collect::<Vec<_>>(), expected, "step {}: {}", self.step, draft.body);
            let asked = settings_of(seen);
            let first = self.bodies.entry(draft.settings.to_string()).or_insert_with(|| asked.clone());
            assert_eq!(asked, *first, "step {}: {}", self.step, draft.settings);
        }
    }

    fn assert_missing(&self, answer: &Answer) {
        assert_eq!(answer.failure(), (400, "previous_response_not_found".into()), "step {}", self.step);
        assert_eq!(answer.error()["param"], "previous_response_id");
    }

    async fn is_missing(&mut self, at: usize) {
        self.known[at].gone = true;
        let draft = self.draft(Some(at), 0);
        let answer = self.ground.world.client.post("/v1/responses", &draft.body).await;
        self.assert_missing(&answer);
    }

    /// A stored response's time is up.
    async fn expire(&mut self) {
        let Some(at) = self.pick(usize::MAX).filter(|at| self.known[*at].stored && !self.known[*at].gone)
        else {
            return;
        };
        let (store, id) = (&self.ground.world.store, ResponseId::new(self.known[at].id.as_str()));
        let Ok(Lookup::Found(mut record)) = store.get(&id).await else { panic!("{id} is not in the store") };
        record.expires_at = SystemTime::UNIX_EPOCH;
        store.put(record).await.expect("it is put back");
        self.is_missing(at).await;
    }

    async fn delete(&mut self) {
        let Some(at) = self.pick(usize::MAX) else { return };
        let id = ResponseId::new(self.known[at].id.as_str());
        let deleted = self.ground.world.bridge.delete_response(&id, &KeyId::anonymous()).await;
        assert_eq!(deleted.expect("the store works"), !self.known[at].gone, "step {}", self.step);
        self.is_missing(at).await;
    }

    /// One that can be continued by a plain request.
    fn pick_plain(&mut self) -> Option<usize> {
        self.pick(RECENT).filter(|at| !self.known[*at].gone && self.known[*at].open.is_empty())
    }

    /// A turn that fails leaves no response, and its predecessor as it was.
    async fn fail(&mut self) {
        self.ground.world.standin.clear_requests();
        let from = self.pick_plain();
        let mut draft = self.draft(from, 0);
        draft.say("FAIL 400");
        let answer = self.ground.world.client.post("/v1/responses", &draft.body).await;
        answer.error();
        self.check(&draft);
        if let Some(from) = from {
            self.run(vec![Some(from)]).await;
        }
    }

    /// So does a client that leaves.
    async fn leave(&mut self) {
        let from = self.pick_plain();
        let mut draft = self.draft(from, 0);
        draft.say("SLOW 5000 5");
        let mut events = self.ground.world.client.stream("/v1/responses", &draft.body).await;
        events.until("response.output_text.delta").await;
        drop(events);
        self.ground.world.until_idle().await;
        if let Some(from) = from {
            self.run(vec![Some(from)]).await;
        }
    }

    /// An answer that is cut short is history as it was told.
    async fn cut(&mut self) {
        self.ground.world.standin.clear_requests();
        let from = self.pick_plain();
        let mut draft = self.draft(from, 0);
        draft.say("SLOW 300 1");
        draft.body["max_output_tokens"] = 16.into();
        let answer = self.ground.world.client.post("/v1/responses", &draft.body).await;
        assert_eq!(answer.ok()["status"], "incomplete");
        self.take_in(draft, &answer);
    }

    async fn unknown(&mut self) {
        let mut draft = self.draft(None, 0);
        draft.body["previous_response_id"] = format!("resp_{:032x}", self.step).into();
        let answer = self.ground.world.client.post("/v1/responses", &draft.body).await;
        self.assert_missing(&answer);
    }
}

/// Random numbers that a seed gives again.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let below = (mixed ^ (mixed >> 31)) % u64::try_from(limit).expect("a limit");
        usize::try_from(below).expect("below the limit")
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("not that late")
}

#[expect(clippy::disallowed_methods, reason = "tests have no configuration layer to read the environment")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
