//! A turn of a conversation: what was said goes before its input, and what is said goes to its end.

use std::collections::HashSet;

use super::documents::{Clash, Conversations, Named, check_ids, name, named_in};
use crate::api::answer::Answer;
use crate::api::error::ApiError;
use crate::api::sse::Steps;
use crate::bridge::{BridgeError, TurnStep};
use crate::model::{Item, KeyId, Outcome, ResponseId};

/// A conversation that a response takes part in.
#[derive(Debug)]
pub(crate) struct Joined {
    conversations: Conversations,
    id: String,
    owner: KeyId,
    /// The background response that had it then.
    taken_by: Option<ResponseId>,
    /// What was there when the request came.
    before: Vec<Named>,
    /// What the request adds.
    input: Vec<Named>,
}

impl Joined {
    /// Reads the conversation, where one is named.
    pub(crate) async fn read(
        conversations: &Conversations,
        id: Option<String>,
        owner: KeyId,
    ) -> Result<Option<Self>, ApiError> {
        let Some(id) = id else { return Ok(None) };
        let about = |error: ApiError| match error.code.as_deref() {
            Some("conversation_not_found") => ApiError { param: Some("conversation".into()), ..error },
            _ => error,
        };
        let head = conversations.find(&id, &owner).await.map_err(about)?.head;
        let before = conversations.items(&id, &owner).await.map_err(about)?;
        let taken_by = head.taken_by.map(ResponseId::new);
        Ok(Some(Self { taken_by, before, ..Self::unread(conversations, id, owner) }))
    }

    /// One that is only added to.
    pub(crate) fn unread(conversations: &Conversations, id: String, owner: KeyId) -> Self {
        let conversations = conversations.clone();
        Self { conversations, id, owner, taken_by: None, before: Vec::new(), input: Vec::new() }
    }

    /// The background response beside `response` that has it, unless that one has ended.
    pub(crate) fn holder(&self, response: &ResponseId) -> Option<&ResponseId> {
        self.taken_by.as_ref().filter(|holder| *holder != response)
    }

    /// Takes the conversation for `response`; whichever had it when it was read has ended. Gives all that the model is
    /// to be given, as it is now.
    pub(crate) async fn hold(&mut self, response: &ResponseId) -> Result<Vec<Item>, ApiError> {
        self.conversations.take(&self.id, &self.owner, response, self.holder(response)).await?;
        let before = self.conversations.items(&self.id, &self.owner).await?;
        check_ids(&self.input, &before.iter().map(|(id, _)| id.clone()).collect())?;
        Ok(before.into_iter().chain(self.input.iter().cloned()).map(|(_, item)| item).collect())
    }

    /// `response`, which has the conversation, has ended well: what it was given and has said is the conversation's,
    /// once, however often this is called.
    pub(crate) async fn keep_once(
        &self,
        response: &ResponseId,
        output: Vec<(Option<String>, Item)>,
    ) -> Result<(), ApiError> {
        let mut said = self.input.clone();
        said.extend(output.into_iter().map(|(id, item)| name(id, item)));
        let kept = self.conversations.append_once(&self.id, &self.owner, said, response).await;
        deleted_or(kept, &self.id)
    }

    /// It has ended otherwise: the next one may go on.
    pub(crate) async fn give_back(&self, response: &ResponseId) -> Result<(), ApiError> {
        let given = self.conversations.give_back(&self.id, &self.owner, response).await;
        deleted_or(given, &self.id)
    }

    /// About how many tokens were said before.
    pub(crate) fn tokens(&self) -> u64 {
        let bytes: usize = self.before.iter().map(|(_, item)| item.weight()).sum();
        u64::try_from(bytes / 4).unwrap_or(u64::MAX)
    }

    /// Takes the request's input in. Gives all that the model is to be given.
    pub(crate) fn extend(
        joined: Option<&mut Self>,
        input: Vec<Item>,
        response: &ResponseId,
    ) -> Result<Vec<Item>, ApiError> {
        match joined {
            Some(joined) => joined.take(input, response),
            None => Ok(input),
        }
    }

    fn take(&mut self, input: Vec<Item>, response: &ResponseId) -> Result<Vec<Item>, ApiError> {
        self.name(input, response);
        check_ids(&self.input, &self.before.iter().map(|(id, _)| id.clone()).collect::<HashSet<_>>())?;
        if self.before.is_empty() && self.input.is_empty() {
            let message =
                "Invalid 'input': empty array. Expected at least one item, for the conversation has none.";
            return Err(ApiError::invalid("input", message).with_code("empty_array"));
        }
        Ok(self.before.drain(..).chain(self.input.iter().cloned()).map(|(_, item)| item).collect())
    }

    /// What `response` adds.
    pub(crate) fn name(&mut self, input: Vec<Item>, response: &ResponseId) {
        self.input = named_in(input, response);
    }

    /// The turn has ended well: what it was given and what it said are the conversation's from now on. `output` has
    /// the ids that were told.
    async fn keep(&mut self, output: Vec<(Option<String>, Item)>) -> Result<(), ApiError> {
        let mut said = std::mem::take(&mut self.input);
        said.extend(output.into_iter().map(|(id, item)| name(id, item)));
        let kept = self.conversations.append(&self.id, &self.owner, said, Clash::Rename).await;
        deleted_or(kept.map(drop), &self.id)
    }
}

/// Somebody who has deleted a conversation meanwhile wants nothing kept.
fn deleted_or(kept: Result<(), ApiError>, id: &str) -> Result<(), ApiError> {
    match kept {
        Err(error) if error.code.as_deref() == Some("conversation_not_found") => {
            tracing::info!(conversation = id, "an answer's conversation was deleted meanwhile");
            Ok(())
        }
        kept => kept,
    }
}

/// An answer that is its conversation's before its end is told.
pub(crate) struct Appending<F> {
    answer: Answer,
    joined: Option<Joined>,
    /// Names the output.
    name: F,
}

impl<F: Fn(&[Item]) -> Vec<(Option<String>, Item)> + Send + 'static> Appending<F> {
    pub(crate) fn new(answer: Answer, joined: Option<Joined>, name: F) -> Self {
        Self { answer, joined, name }
    }

    /// Waits for the end.
    pub(crate) async fn outcome(mut self) -> Result<Outcome, ApiError> {
        let outcome = self.answer.outcome().await?;
        if let Some(joined) = &mut self.joined {
            joined.keep((self.name)(&outcome.output)).await?;
        }
        Ok(outcome)
    }
}

impl<F: Fn(&[Item]) -> Vec<(Option<String>, Item)> + Send + 'static> Steps for Appending<F> {
    async fn next(&mut self) -> TurnStep {
        let step = self.answer.next().await;
        let (Some(joined), TurnStep::Finished(Ok(outcome))) = (&mut self.joined, &step) else { return step };
        match joined.keep((self.name)(&outcome.output)).await {
            Ok(()) => step,
            Err(error) => TurnStep::Finished(Err(not_kept(&error))),
        }
    }
}

/// An answer that its conversation lacks is none: the next one would not know of it.
pub(crate) fn not_kept(error: &ApiError) -> BridgeError {
    let code = match error.code.as_deref() {
        Some("store_full") => "store_full",
        Some("store_unavailable") => "store_unavailable",
        _ => "internal_error",
    };
    let message = format!("The answer could not be added to its conversation. {}", error.message);
    BridgeError::Upstream { message, status: None, code }
}
