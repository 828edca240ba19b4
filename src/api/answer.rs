//! A turn whose answer has to follow a rule: it is held back until it does, with one attempt to repair it.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::format::Rule;
use super::sse::Steps;
use crate::bridge::{Bridge, BridgeError, Turn, TurnStep};
use crate::model::{Item, KeyId, Outcome, ResponseId, Retention, TurnEvent, TurnRequest};

/// The code of an answer that would not follow its rule.
pub(crate) const INVALID_ANSWER: &str = "invalid_structured_output";

/// A running turn, or one whose answer is told once it has been found good.
pub(crate) struct Answer(State);

enum State {
    Plain(Turn),
    /// Held back until it has ended.
    Checked(BoxFuture<'static, Result<Outcome, BridgeError>>),
    /// What is left to tell of a good one.
    Told(VecDeque<TurnStep>),
}

/// Starts a turn. Gives the catalogue id of its model too.
pub(crate) async fn start(
    bridge: &Bridge,
    mut request: TurnRequest,
    rule: Option<Arc<Rule>>,
) -> Result<(Answer, String), BridgeError> {
    under(&mut request, rule.as_deref());
    let Some(rule) = rule else {
        let turn = bridge.run(request).await?;
        let model = turn.model().to_owned();
        return Ok((Answer(State::Plain(turn)), model));
    };
    let turn = bridge.run(request.clone()).await?;
    let model = turn.model().to_owned();
    let checked = checked(bridge.clone(), request, rule, turn).boxed();
    Ok((Answer(State::Checked(checked)), model))
}

/// Asks for the form in words. With the instructions and not with the input: it is for this call alone, and a
/// continuation's transcript does not have it.
pub(crate) fn under(request: &mut TurnRequest, rule: Option<&Rule>) {
    if let Some(rule) = rule {
        let said = request.instructions.take().map(|said| said + "\n\n").unwrap_or_default();
        request.instructions = Some(said + &rule.instruction);
    }
}

impl Answer {
    /// Waits for the end.
    pub(crate) async fn outcome(self) -> Result<Outcome, BridgeError> {
        match self.0 {
            State::Plain(turn) => turn.outcome().await,
            State::Checked(checked) => checked.await,
            State::Told(steps) => steps.into_iter().find_map(end_of).unwrap_or(Err(BridgeError::Interrupted)),
        }
    }
}

impl Steps for Answer {
    /// Cancel-safe: what is waited for goes on where it was.
    async fn next(&mut self) -> TurnStep {
        loop {
            match &mut self.0 {
                State::Plain(turn) => return turn.next().await,
                State::Checked(checked) => {
                    let result = checked.await;
                    let items = result.iter().flat_map(|outcome| outcome.output.iter().cloned());
                    let mut steps: VecDeque<TurnStep> =
                        items.map(TurnEvent::ItemDone).map(TurnStep::Event).collect();
                    steps.push_back(TurnStep::Finished(result));
                    self.0 = State::Told(steps);
                }
                State::Told(steps) => match steps.pop_front() {
                    Some(step) => return step,
                    None => std::future::pending().await,
                },
            }
        }
    }
}

fn end_of(step: TurnStep) -> Option<Result<Outcome, BridgeError>> {
    match step {
        TurnStep::Finished(result) => Some(result),
        TurnStep::Event(_) => None,
    }
}

async fn checked(
    bridge: Bridge,
    request: TurnRequest,
    rule: Arc<Rule>,
    turn: Turn,
) -> Result<Outcome, BridgeError> {
    let mut unjudged = Unjudged::of(&bridge, &request);
    let deadline = turn.deadline();
    let first = turn.outcome().await?;
    let Some(complaint) = complaint(&rule, &first) else {
        unjudged.keep();
        return Ok(first);
    };
    tracing::info!(response_id = %request.response_id, "the answer has not the form that was asked for; asking again");
    let second = match bridge.run(repair(request.clone(), &first, &complaint, deadline)).await {
        Ok(turn) => turn.outcome().await,
        Err(error) => Err(error),
    };
    match second {
        Ok(second) if self::complaint(&rule, &second).is_none() => {
            unjudged.keep();
            Ok(second)
        }
        failed => {
            // Its caller is told of a failure: there is nothing to continue.
            unjudged.forget().await;
            failed.and(Err(BridgeError::Upstream {
                message: "The model's answer does not have the form that was asked for, and a repair attempt did not \
                          help."
                    .into(),
                status: None,
                code: INVALID_ANSWER,
            }))
        }
    }
}

/// What is kept under the response's id before it is known to be good. Dropped, as where the client leaves
/// meanwhile, it is forgotten.
struct Unjudged(Option<(Bridge, ResponseId, KeyId)>);

impl Unjudged {
    fn of(bridge: &Bridge, request: &TurnRequest) -> Self {
        let kept = request.retention != Retention::Nothing;
        Self(kept.then(|| (bridge.clone(), request.response_id.clone(), request.key.clone())))
    }

    /// It is good.
    fn keep(&mut self) {
        self.0 = None;
    }

    /// It is not.
    async fn forget(mut self) {
        if let Some((bridge, id, key)) = &self.0
            && let Err(error) = bridge.delete_response(id, key).await
        {
            tracing::warn!(response_id = %id, %error, "a failed answer is still kept");
        }
        self.keep();
    }
}

impl Drop for Unjudged {
    fn drop(&mut self) {
        if let Some((bridge, id, key)) = self.0.take() {
            bridge.forget_response(id, key);
        }
    }
}

/// An answer that was cut has no form, and the next one would be cut again; its reader is told that it was cut, or
/// has asked for it.
fn complaint(rule: &Rule, outcome: &Outcome) -> Option<String> {
    let cut = outcome.incomplete.is_some() || outcome.stopped;
    if cut { None } else { rule.complaint(&outcome.output) }
}

/// The call again, with the answer and what is wrong with it. Where the answer is kept, the conversation goes
/// on from it, and the response's id comes to mean the repaired one; where it is not, it comes with the call.
fn repair(mut request: TurnRequest, outcome: &Outcome, complaint: &str, deadline: Instant) -> TurnRequest {
    let complaint = Item::input_text(
        "developer",
        &format!("Your last answer does not have the form that was asked for.\n{complaint}\nAnswer again."),
    );
    // Both attempts are made for this one answer.
    (request.spent, request.until) = (outcome.usage, Some(deadline));
    if outcome.kept.is_none() {
        request.input.extend(outcome.output.iter().cloned());
        request.input.push(complaint);
    } else {
        request.previous = Some(request.response_id.clone());
        request.input = vec![complaint];
    }
    request
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::model::Kept;

    #[tokio::test]
    async fn a_repair_goes_on_from_an_answer_that_is_kept_and_brings_another_one_along() {
        let before = ResponseId::new("resp_before");
        let request = TurnRequest {
            previous: Some(before.clone()),
            retention: Retention::Stored,
            ..TurnRequest::new(vec![Item::input_text("user", "a")])
        };
        let expires_at = SystemTime::now() + Duration::from_secs(60);
        let kept = Kept { durability: "memory", chain_length: 2, expires_at };
        for (kept, previous, items) in [(Some(kept), request.response_id.clone(), 1), (None, before, 3)] {
            let output = vec![Item::input_text("assistant", "b")];
            let outcome = Outcome { output, kept, ..Outcome::default() };
            let repair = repair(request.clone(), &outcome, "It is no JSON.", Instant::now());
            assert_eq!((repair.previous, repair.input.len()), (Some(previous), items));
        }
    }
}
