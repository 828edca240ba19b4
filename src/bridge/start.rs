//! Where a turn runs: in the turn that waits for its outputs, on the chain's warm thread, or on a fresh one that
//! gets the whole conversation. All three give the model the same items.

use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use super::continuations::Step;
use super::held::{Claim, HeldTurn, Resumption};
use super::threads::{LiveThread, Shape, Wanted};
use super::tools::{self, Settings};
use super::{BridgeError, Inner, failure};
use crate::app_server::{AppServerError, Connection, Thread, TurnOptions};
use crate::model::{Item, ModelInfo, TurnId, TurnRequest};

/// Where an app-server that is not ours starts to rewrite long conversations: this share of the model's window.
const FOREIGN_WINDOW_SHARE: f64 = 0.85;
/// The window assumed for a model whose own is not known, tokens.
const FOREIGN_WINDOW: u64 = 200_000;

/// What a turn is to answer.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) request: TurnRequest,
    pub(super) model: ModelInfo,
    /// The login it runs under.
    pub(super) account: Option<String>,
    /// What was said before the request's input.
    pub(super) previous: Option<Arc<Step>>,
}

/// A turn that runs.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) live: LiveThread,
    pub(super) turn: TurnId,
    /// As it was, but for a conversation that came whole and goes on in a held turn: what the bridge knows of
    /// it is `previous` now, and only the rest is input.
    pub(super) plan: Plan,
}

/// The start was not done within `limit`.
pub(super) fn start_timed_out(limit: Duration) -> BridgeError {
    BridgeError::Timeout { what: "The start of the turn", limit }
}

impl Inner {
    /// Starts the turn, or goes on with the one that waits for this request's outputs.
    pub(super) async fn start(&self, mut plan: Plan) -> Result<Started, BridgeError> {
        let connection = self.app_server.connection().await.map_err(failure::of_request)?;
        let settings = Settings::of(&plan.request, &plan.model.id);
        let claim = Claim {
            request: &plan.request,
            settings: &settings,
            account: plan.account.as_deref(),
            generation: connection.generation(),
        };
        if let Some(resumption) = self.held.claim(claim).await {
            match resume(resumption, &plan.request).await {
                Ok((held, step, input)) => {
                    plan.previous = Some(step);
                    plan.request.input = input;
                    return Ok(Started { live: held.live, turn: held.turn, plan });
                }
                Err(error) => {
                    debug!(response_id = %plan.request.response_id, %error, "held turn lost, rebuilding");
                }
            }
        }
        if let Some((live, turn)) = self.start_warm(&connection, &plan).await {
            return Ok(Started { live, turn, plan });
        }
        let (live, turn) = self.start_fresh(&connection, &plan).await?;
        Ok(Started { live, turn, plan })
    }

    /// Starts it on a fresh thread, once more.
    pub(super) async fn start_again(&self, plan: &Plan) -> Result<(LiveThread, TurnId), BridgeError> {
        let connection = self.app_server.connection().await.map_err(failure::of_request)?;
        self.start_fresh(&connection, plan).await
    }

    /// Starts the threads that calls like this one are likely to want next.
    pub(super) fn start_spares(this: &Arc<Self>, shape: &Shape) {
        while !this.slots.is_closed() && this.threads.begin_spare(shape) {
            let (inner, shape) = (Arc::clone(this), shape.clone());
            this.tasks.spawn("spare thread", async move {
                let thread = match inner.app_server.connection().await {
                    Ok(connection) => inner.start_thread(&connection, &shape).await.ok(),
                    Err(_) => None,
                };
                inner.threads.spare_started(&shape, thread);
            });
        }
    }

    async fn start_warm(&self, connection: &Connection, plan: &Plan) -> Option<(LiveThread, TurnId)> {
        let request = &plan.request;
        let previous = request.previous.as_ref()?;
        let shape = Shape::of(request, &plan.model.id);
        let wanted = Wanted {
            shape: &shape,
            instructions: request.instructions.as_deref(),
            any_model: self.app_server.owns_app_server(),
            generation: connection.generation(),
        };
        let mut live = self.threads.take_warm(previous, &wanted)?;
        let mut options = turn_options(request);
        options.model = (live.shape.model != shape.model).then(|| shape.model.clone());
        live.shape = shape;
        let mut items = tools::upstream_items(&request.input);
        items.extend(tools::demand(request));
        match live.thread.start_turn(&items, &options).await {
            Ok(turn) => Some((live, turn)),
            // The thread or its connection has gone in between: the transcript has it all.
            Err(error) => {
                debug!(response_id = %request.response_id, %error, "warm thread lost, rebuilding");
                None
            }
        }
    }

    async fn start_fresh(
        &self,
        connection: &Connection,
        plan: &Plan,
    ) -> Result<(LiveThread, TurnId), BridgeError> {
        let request = &plan.request;
        let mut items: Vec<Item> = Vec::new();
        items.extend(request.instructions.iter().map(|text| Item::input_text("developer", text)));
        let said = plan.previous.as_ref().map(Step::transcript).unwrap_or_default();
        items.extend(tools::upstream_items(said.iter().chain(&request.input)));
        items.extend(tools::demand(request));
        self.check_foreign_window(&items, &plan.model)?;
        let shape = Shape::of(request, &plan.model.id);
        let options = turn_options(request);
        let mut retried = false;
        loop {
            let mut thread = self.fresh_thread(connection, &shape).await.map_err(failure::of_request)?;
            match thread.start_turn(&items, &options).await {
                Ok(turn) => {
                    let instructions = request.instructions.clone();
                    return Ok((LiveThread { thread, shape, instructions }, turn));
                }
                // The items were turned away and the turn was not: that thread is spoiled, another one is not.
                Err(error @ AppServerError::Overloaded { .. }) if !retried => {
                    debug!(response_id = %request.response_id, %error, "starting again on a fresh thread");
                    retried = true;
                }
                Err(error) => return Err(failure::of_request(error)),
            }
        }
    }

    async fn fresh_thread(&self, connection: &Connection, shape: &Shape) -> Result<Thread, AppServerError> {
        if let Some(thread) = self.threads.take_spare(shape, connection.generation()) {
            return Ok(thread);
        }
        self.start_thread(connection, shape).await
    }

    async fn start_thread(&self, connection: &Connection, shape: &Shape) -> Result<Thread, AppServerError> {
        let mut options = self.app_server.thread_options(&shape.model, shape.verbosity.as_deref());
        options.dynamic_tools = shape.tools.dynamic().to_vec();
        options.web_search = shape.web_search;
        connection.start_thread(&options).await
    }

    /// An app-server that is not ours would rewrite a conversation that nears its window, without a word:
    /// refuse it first. The estimate is the app-server's own, four bytes a token.
    fn check_foreign_window(&self, items: &[Item], model: &ModelInfo) -> Result<(), BridgeError> {
        if self.app_server.owns_app_server() {
            return Ok(());
        }
        let tokens = items.iter().map(Item::weight).sum::<usize>() / 4;
        let window = model.context_window.unwrap_or(FOREIGN_WINDOW);
        #[expect(clippy::cast_precision_loss, reason = "an estimate of some hundred thousand tokens")]
        let fits = (tokens as f64) < window as f64 * FOREIGN_WINDOW_SHARE;
        if fits {
            return Ok(());
        }
        let message = format!(
            "This model's maximum context length is {window} tokens; the input has about {tokens}, more than \
             this app-server passes on unchanged."
        );
        Err(BridgeError::ContextLengthExceeded { message })
    }
}

/// Lets a held turn go on with its outputs. What follows them goes in first: the app-server puts it after the
/// outputs, where later it might come too late.
async fn resume(
    resumption: Resumption,
    request: &TurnRequest,
) -> Result<(HeldTurn, Arc<Step>, Vec<Item>), AppServerError> {
    let Resumption { mut held, calls, mut answers, step, input } = resumption;
    let mut extras = answers.extras.clone();
    extras.extend(tools::demand(request));
    held.live.thread.inject(&extras).await?;
    for call in &calls {
        let reply = held.replies.iter().find(|(id, _)| id == call);
        if let (Some((_, reply)), Some(content)) = (reply, answers.take(call)) {
            reply.answer(content).await?;
        }
    }
    held.replies.clear();
    Ok((held, step, input))
}

fn turn_options(request: &TurnRequest) -> TurnOptions {
    TurnOptions {
        model: None,
        effort: request.effort.clone(),
        summary: request.summary.clone(),
        service_tier: request.service_tier.clone(),
        output_schema: request.output_schema.clone(),
        client_metadata: request.client_metadata.clone(),
    }
}
