//! Compaction: a turn of its own, after which a summary stands for what was said, and what a conversation with such
//! a summary in it says to the model.
//!
//! The thread is kept on disk for as long as it lasts: what Codex has made of it is told nowhere else.

use super::continuations::Step;
use super::start::{Plan, instructions, whole};
use super::threads::{LiveThread, Shape};
use super::{BridgeError, Inner, failure, tools};
use crate::app_server::{AppServer, AppServerError, Connection};
use crate::model::{Item, ThreadId, TurnId};
use crate::tasks::Tasks;

/// What is still in force of a conversation: of what was said before its last compaction, the messages of users and
/// developers.
pub(super) fn in_force<'a>(items: impl IntoIterator<Item = &'a Item>) -> Vec<&'a Item> {
    let mut items: Vec<&Item> = items.into_iter().collect();
    if let Some(last) = items.iter().rposition(|item| item.is_compaction()) {
        let mut at = 0;
        items.retain(|item| {
            at += 1;
            at > last || item.is_asked()
        });
    }
    items
}

/// A thread on disk, which goes with this.
#[derive(Debug)]
pub(super) struct OnDisk {
    app_server: AppServer,
    tasks: Tasks,
    thread: ThreadId,
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        let (app_server, thread) = (self.app_server.clone(), self.thread.clone());
        let stop = self.tasks.stop_token().clone();
        self.tasks.spawn("thread deletion", async move {
            let deleted = tokio::select! {
                // With our own app-server goes all that is in its home.
                () = stop.cancelled() => return,
                deleted = app_server.delete_thread(&thread) => deleted,
            };
            if let Err(error) = deleted {
                tracing::debug!(%thread, %error, "a compacted thread could not be deleted");
            }
        });
    }
}

impl Inner {
    /// Has the whole conversation compacted, on a thread of its own.
    pub(super) async fn start_compaction(
        &self,
        connection: &Connection,
        plan: &mut Plan,
    ) -> Result<(LiveThread, TurnId), BridgeError> {
        let (previous, instructions) = (plan.previous.clone(), instructions(&plan.request));
        let before = previous.as_ref().map_or(0, |step| step.bytes());
        let tell = move |input: &[Item]| {
            let said = previous.as_ref().map(Step::transcript).unwrap_or_default();
            tools::upstream_items(whole(instructions.as_ref(), &said, input))
        };
        let items = self.with_input(plan, before, tell).await?;
        self.check_foreign_window(&items, &plan.model)?;
        let request = &plan.request;
        let shape = Shape::of(request, &plan.model.id);
        let options = self.thread_options(&shape);
        let started = connection.start_kept(&options, request.service_tier.as_deref()).await;
        let mut thread = started.map_err(failure::of_request)?;
        let (app_server, tasks) = (self.app_server.clone(), self.tasks.clone());
        let disk = OnDisk { app_server, tasks, thread: thread.id().clone() };
        let turn = thread.start_compaction(&items).await.map_err(failure::of_request)?;
        let live = LiveThread {
            thread,
            _disk: Some(disk),
            shape,
            instructions: None,
            history: None,
            spoiled: false,
        };
        Ok((live, turn))
    }

    /// What takes the place of the conversation: its messages of users and developers, and last what stands for all
    /// else.
    pub(super) async fn compacted(&self, live: &LiveThread, plan: &Plan) -> Result<Vec<Item>, BridgeError> {
        let lost = |reason: String| BridgeError::Upstream {
            message: format!("What the app-server made of the conversation cannot be read: {reason}."),
            status: None,
            code: "compaction_lost",
        };
        let summary = match self.app_server.compacted(&live.thread).await {
            Ok(Some(summary)) => summary,
            Ok(None) => return Err(lost("it is not there".into())),
            Err(error @ AppServerError::Disconnected(_)) => return Err(failure::of_request(error)),
            Err(error) => {
                tracing::warn!(thread = %live.thread.id(), %error, "a compaction cannot be read");
                return Err(lost("it was not given out".into()));
            }
        };
        let mut items = plan.previous.as_ref().map(Step::transcript).unwrap_or_default();
        items.extend(plan.request.input.iter().cloned());
        items.retain(Item::is_asked);
        items.push(summary);
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(value: serde_json::Value) -> Item {
        Item::from_value(value).unwrap()
    }

    #[test]
    fn the_last_compaction_stands_for_all_but_what_was_asked() {
        let asked = |role: &str, text: &str| Item::input_text(role, text);
        let call = item(json!({"type": "function_call", "call_id": "c"}));
        let first = item(json!({"type": "compaction", "encrypted_content": "1"}));
        let second = item(json!({"type": "compaction", "encrypted_content": "2"}));
        let items = [
            asked("developer", "rules"),
            asked("user", "a"),
            asked("assistant", "b"),
            first,
            asked("user", "c"),
            call.clone(),
            second.clone(),
            asked("assistant", "d"),
            call,
        ];
        let places = |items: &[Item]| -> Vec<usize> {
            let kept = in_force(items);
            kept.iter().map(|kept| items.iter().position(|item| std::ptr::eq(item, *kept)).unwrap()).collect()
        };
        assert_eq!(places(&items), [0, 1, 4, 6, 7, 8]);
        assert_eq!(places(&items[..3]), [0, 1, 2]);
        assert_eq!(places(&[]), [0usize; 0]);
    }
}
