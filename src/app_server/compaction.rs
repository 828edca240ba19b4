//! What Codex has made of a conversation. It tells no event of that: it is read where the thread is kept.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{AppServer, AppServerError, Thread};
use crate::model::Item;

/// The file is written beside the events: how often it is looked at, and when again.
const LOOKS: usize = 5;
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A line of the file.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    payload: &'a RawValue,
}

/// The payload of a compaction's line.
#[derive(Deserialize)]
struct Compacted {
    /// What Codex tells the model of the summary; empty where the backend made an item of it.
    #[serde(default)]
    message: String,
    /// What the thread holds from then on.
    #[serde(default)]
    replacement_history: Vec<Item>,
}

impl AppServer {
    /// What stands for all that was said on `thread`, which is kept on disk and was compacted: the backend's own
    /// item, or the message that Codex puts in its place. `None` if there is neither.
    pub async fn compacted(&self, thread: &Thread) -> Result<Option<Item>, AppServerError> {
        for look in 0..LOOKS {
            if look > 0 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            let file = thread.connection().kept_file(thread.id()).await?;
            // It holds the whole conversation.
            if let Some(found) = self.tasks().blocking(move || read(&file)).await.flatten() {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

/// The last compaction in a file, which comes in base64.
fn read(file: &str) -> Option<Item> {
    let file = STANDARD.decode(file).ok()?;
    let is_one =
        |line: &&[u8]| serde_json::from_slice(line).is_ok_and(|line: Line<'_>| line.kind == "compacted");
    let line = file.rsplit(|byte| *byte == b'\n').find(is_one)?;
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    let Compacted { message, replacement_history } = serde_json::from_str(line.payload.get()).ok()?;
    let made = replacement_history.iter().rev().find(|item| item.is_compaction());
    let kept = |item: &Item| {
        let fields = item
            .fields()
            .iter()
            .filter(|(name, _)| matches!(name.as_str(), "type" | "id" | "encrypted_content"));
        Item::new(fields.map(|(name, value)| (name.clone(), value.clone())).collect())
    };
    made.map(kept).or_else(|| (!message.is_empty()).then(|| Item::input_text("user", &message)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn file(lines: &[Value]) -> String {
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        STANDARD.encode(lines.join("\n") + "\n")
    }

    #[test]
    fn the_backends_own_item_is_taken_as_it_is() {
        let item = json!({"type": "compaction", "id": "cmp_1", "encrypted_content": "e"});
        let mut noted = item.clone();
        noted["internal_chat_message_metadata_passthrough"] = json!({"turn_id": "t"});
        let user = json!({"type": "message", "role": "user", "content": []});
        let compacted =
            json!({"type": "compacted", "payload": {"message": "", "replacement_history": [user, noted]}});
        let later = json!({"type": "event_msg", "payload": {"type": "task_complete"}});
        assert_eq!(read(&file(&[later.clone(), compacted, later])).unwrap().to_value(), item);
    }

    #[test]
    fn a_summary_is_the_message_that_codex_makes_of_it() {
        let compacted = |message: &str| json!({"type": "compacted", "payload": {"message": message, "replacement_history": []}});
        let found = read(&file(&[compacted("old"), compacted("it was said:\nthis")])).unwrap();
        assert_eq!(found, Item::input_text("user", "it was said:\nthis"));
    }

    #[test]
    fn what_holds_none_gives_none() {
        let empty = json!({"type": "compacted", "payload": {"message": ""}});
        for lines in [
            file(&[]),
            file(&[empty]),
            STANDARD.encode("no json\n{\"type\":\"compacted\"}"),
            "no base64".into(),
        ] {
            assert_eq!(read(&lines), None);
        }
    }
}
