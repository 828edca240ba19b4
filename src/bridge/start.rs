//! Where a turn runs: in the turn that waits for its outputs, on a warm thread that holds what was said before,
//! on a fork of what others have said before, or on a fresh thread that gets the whole conversation. All give the
//! model the same items, but that a warm thread has its own reasoning, which a client need not send back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{debug, info};

use super::affinity::{History, Trail};
use super::continuations::Step;
use super::held::{Claim, HeldTurn, Resumption};
use super::templates::{self, Template};
use super::threads::{LiveThread, Owner, Shape, Wanted};
use super::tools::{self, Settings};
use super::{BridgeError, Inner, failure};
use crate::app_server::{AppServerError, Connection, Thread, ThreadOptions, TurnOptions};
use crate::model::{Item, LoginState, ModelInfo, Rebuilt, Route, TurnId, TurnRequest};

/// Where an app-server that is not ours starts to rewrite long conversations: this share of the model's window.
const FOREIGN_WINDOW_SHARE: f64 = 0.85;
/// The window assumed for a model whose own is not known, tokens.
const FOREIGN_WINDOW: u64 = 200_000;

/// How often a connection that changes under the look at its login is looked at.
const LOOKS: usize = 4;

/// What a turn is to answer.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) request: TurnRequest,
    pub(super) model: ModelInfo,
    /// The login it runs under.
    pub(super) account: Option<String>,
    /// What was said before the request's input.
    pub(super) previous: Option<Arc<Step>>,
    /// That was under another login: nothing of it but its items may be used.
    pub(super) other_account: bool,
    /// The app-server was lost under it once, and it was run again.
    pub(super) rerun: bool,
}

/// A turn that runs.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) live: LiveThread,
    pub(super) turn: TurnId,
    /// As it was, but for a conversation that came whole and goes on in a held turn: what the bridge knows of
    /// it is `previous` now, and only the rest is input.
    pub(super) plan: Plan,
    pub(super) route: Route,
}

impl Plan {
    /// How a thread of the turn's own counts.
    pub(super) fn fresh_route(&self) -> Route {
        if self.previous.is_some() { Route::Rebuilt } else { Route::Fresh }
    }

    /// For the trace: the turn was accepted.
    fn note_started(&self, live: &LiveThread, turn: &TurnId, route: Route, because: Option<Rebuilt>) {
        let request = &self.request;
        let starting = request.trace.elapsed();
        request.trace.note(|trace| {
            (trace.route, trace.rebuilt_because) = (Some(route), because);
            (trace.thread, trace.turn) = (Some(live.thread.id().clone()), Some(turn.clone()));
            trace.generation = Some(live.thread.connection().generation());
            // A repair continues the very answer that it replaces.
            if request.previous.as_ref() != Some(&request.response_id) {
                trace.previous.clone_from(&request.previous);
            }
            trace.chain_length =
                Some(self.previous.as_ref().map_or(1, |step| step.length().saturating_add(1)));
            trace.phases.starting = Some(starting);
            trace.phases.first_event = None;
            trace.turns += 1;
        });
    }
}

/// The start was not done within `limit`.
pub(super) fn start_timed_out(limit: Duration) -> BridgeError {
    BridgeError::Timeout { what: "The start of the turn", limit }
}

impl Inner {
    /// Starts the turn, or goes on with the one that waits for this request's outputs.
    pub(super) async fn start(
        self: &Arc<Self>,
        connection: &Connection,
        mut plan: Plan,
    ) -> Result<Started, BridgeError> {
        if plan.request.compacts {
            return self.start_alone(connection, plan, None, None).await;
        }
        let current = self.app_server.current();
        let owner = Owner::of(&plan.request, plan.account.as_deref());
        let mut because = match self.claim(&mut plan, &owner, &current).await {
            Ok(resumption) => match resume(resumption, &plan.request).await {
                Ok((held, step, input)) => {
                    plan.previous = Some(step);
                    plan.request.input = input;
                    plan.note_started(&held.live, &held.turn, Route::Held, None);
                    return Ok(Started { live: held.live, turn: held.turn, plan, route: Route::Held });
                }
                Err(error) => {
                    debug!(response_id = %plan.request.response_id, %error, "held turn lost, rebuilding");
                    Some(Rebuilt::Lost)
                }
            },
            Err(reason) => reason,
        };
        let trail = self.trail(&mut plan).await?;
        match self.start_warm(&current, &mut plan, &owner, trail.as_ref()).await {
            Ok((live, turn)) => {
                plan.note_started(&live, &turn, Route::Live, None);
                return Ok(Started { live, turn, plan, route: Route::Live });
            }
            Err(reason) => because = because.or(reason),
        }
        let history = trail.map(|trail| trail.history);
        if let Some(template) = self.template(&plan).await {
            match self.start_fresh(connection, &mut plan, history.clone(), Some(&template)).await {
                Ok((live, turn)) => {
                    plan.note_started(&live, &turn, Route::Template, None);
                    return Ok(Started { live, turn, plan, route: Route::Template });
                }
                Err(error) => {
                    debug!(response_id = %plan.request.response_id, %error, "not started on a fork");
                    if matches!(error, BridgeError::ConnectionLost { .. } | BridgeError::Timeout { .. }) {
                        self.note_maybe_run(&mut plan, &error);
                    }
                }
            }
        }
        self.start_alone(connection, plan, history, because).await
    }

    /// Starts it on a thread of its own; once more where the app-server is lost meanwhile.
    async fn start_alone(
        &self,
        connection: &Connection,
        mut plan: Plan,
        history: Option<History>,
        because: Option<Rebuilt>,
    ) -> Result<Started, BridgeError> {
        let (live, turn) = match self.start_fresh(connection, &mut plan, history.clone(), None).await {
            Err(error @ BridgeError::ConnectionLost { .. }) if !plan.rerun => {
                self.note_rerun(&mut plan, &error);
                let connection = self.connection_for(&plan).await?;
                self.start_fresh(&connection, &mut plan, history, None).await?
            }
            started => started?,
        };
        let route = plan.fresh_route();
        plan.note_started(&live, &turn, route, because);
        Ok(Started { live, turn, plan, route })
    }

    /// The held turn that the request's outputs are for, if it can go on with them. One that cannot is given up; then
    /// why, where there is a word for it.
    async fn claim(
        &self,
        plan: &mut Plan,
        owner: &Owner,
        current: &[u64],
    ) -> Result<Resumption, Option<Rebuilt>> {
        let settings = Settings::of(&plan.request, &plan.model.id);
        let claim = Claim { request: &plan.request, settings: &settings, owner, current };
        let claimed = self.held.take(claim)?;
        let question = claimed.question(&plan.request, plan.previous.as_ref());
        let answered = self.with_input(plan, question.bytes(), move |input| question.answers(input)).await;
        claimed.resume(answered.ok().flatten()).await
    }

    /// The plan's turn was lost with the app-server and is run again: for the trace and the counter.
    pub(super) fn note_rerun(&self, plan: &mut Plan, error: &BridgeError) {
        info!(response_id = %plan.request.response_id, %error, "running the turn again");
        plan.rerun = true;
        self.reruns.fetch_add(1, Ordering::Relaxed);
        plan.request.trace.note(|trace| trace.reruns += 1);
    }

    /// A start that was never answered may run all the same: what is started in its place is the one more run that
    /// a call has.
    fn note_maybe_run(&self, plan: &mut Plan, error: &BridgeError) {
        if !plan.rerun {
            self.note_rerun(plan, error);
        }
    }

    /// Starts it on a fresh thread, once more.
    pub(super) async fn start_again(
        &self,
        plan: &mut Plan,
    ) -> Result<(LiveThread, TurnId, Route), BridgeError> {
        let connection = self.connection_for(plan).await?;
        let (live, turn) = self.start_fresh(&connection, plan, None, None).await?;
        let route = plan.fresh_route();
        plan.note_started(&live, &turn, route, None);
        Ok((live, turn, route))
    }

    /// A connection, and the login of its app-server: what is started on it runs under that one. An app-server of
    /// ours is replaced when the login changes; of another one it is known as well as it tells.
    pub(super) async fn connection(&self) -> Result<(Connection, LoginState), BridgeError> {
        for _ in 0..LOOKS {
            let connection = self.app_server.connection().await.map_err(failure::of_request)?;
            let login = self.app_server.login().await.map_err(failure::of_request)?;
            if self.app_server.current().contains(&connection.generation()) {
                return Ok((connection, login));
            }
        }
        Err(BridgeError::Unavailable { reason: "its connection changes all the time".into() })
    }

    /// A connection under the plan's login; never under another one.
    async fn connection_for(&self, plan: &Plan) -> Result<Connection, BridgeError> {
        let (connection, login) = self.connection().await?;
        if login.identity() != plan.account.as_deref() {
            return Err(BridgeError::ConnectionLost { reason: "the login has changed".into() });
        }
        Ok(connection)
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

    /// On the chain's warm thread; else why not, where there is a chain.
    async fn start_warm(
        &self,
        current: &[u64],
        plan: &mut Plan,
        owner: &Owner,
        trail: Option<&Trail>,
    ) -> Result<(LiveThread, TurnId), Option<Rebuilt>> {
        let request = &plan.request;
        let shape = Shape::of(request, &plan.model.id);
        let wanted = Wanted { shape: &shape, raw: !templates::tells_all(request), current };
        let compacted = request.input.iter().rposition(Item::is_compaction);
        let (mut live, said) = match &request.previous {
            Some(_) if plan.other_account => return Err(Some(Rebuilt::OtherAccount)),
            Some(_) if compacted.is_some() => return Err(Some(Rebuilt::Compacted)),
            Some(tip) => (self.threads.take_warm(tip, owner, request.instructions.as_deref(), &wanted)?, 0),
            None => {
                let found = trail.and_then(|trail| self.threads.take_said(trail, owner, &wanted));
                let (live, said) = found.ok_or(None)?;
                (live, said.saturating_sub(usize::from(request.instructions.is_some())))
            }
        };
        // What the thread has said before it is no more in force.
        if compacted.is_some_and(|at| at >= said) {
            return Err(None);
        }
        let rest = &request.input[said..];
        let options = turn_options(request);
        live.instructions.clone_from(&request.instructions);
        live.said(rest);
        let mut items = tools::upstream_items(rest);
        items.extend(tools::demand(request));
        match live.thread.start_turn(&items, &options).await {
            Ok(turn) => Ok((live, turn)),
            // The thread or its connection has gone in between: the transcript has it all.
            Err(error) => {
                debug!(response_id = %request.response_id, %error, "warm thread lost, rebuilding");
                if matches!(error, AppServerError::Disconnected(_) | AppServerError::Timeout { .. }) {
                    self.note_maybe_run(plan, &failure::of_request(error));
                }
                Err(Some(Rebuilt::Lost))
            }
        }
    }

    /// What a conversation that comes whole says, where a thread may have said its beginning.
    async fn trail(&self, plan: &mut Plan) -> Result<Option<Trail>, BridgeError> {
        if !self.affinity || plan.request.previous.is_some() {
            return Ok(None);
        }
        let instructions = instructions(&plan.request);
        let of = move |input: &[Item]| Trail::of(instructions.iter().chain(input));
        self.with_input(plan, 0, of).await.map(Some)
    }

    /// Works on the plan's input, and on `more` bytes beside it: off the async threads where that is much.
    pub(super) async fn with_input<T: Send + 'static>(
        &self,
        plan: &mut Plan,
        more: usize,
        work: impl FnOnce(&[Item]) -> T + Send + 'static,
    ) -> Result<T, BridgeError> {
        let input = &mut plan.request.input;
        let bytes = more + input.iter().map(Item::weight).sum::<usize>();
        let shared = Arc::new(std::mem::take(input));
        let lent = Arc::clone(&shared);
        let result = self.tasks.on_bytes(bytes, move || work(&lent)).await;
        // Back even where the work broke off: there may be another way to start.
        plan.request.input = Arc::unwrap_or_clone(shared);
        result.ok_or(BridgeError::Interrupted)
    }

    /// Starts it on a thread of its own, which gets the whole conversation, or what the template lacks of it.
    /// `history` is that of all this, where it is known.
    async fn start_fresh(
        &self,
        connection: &Connection,
        plan: &mut Plan,
        history: Option<History>,
        template: Option<&Template>,
    ) -> Result<(LiveThread, TurnId), BridgeError> {
        if plan.request.compacts {
            return self.start_compaction(connection, plan).await;
        }
        let (previous, instructions) = (plan.previous.clone(), instructions(&plan.request));
        let (affinity, templated) = (self.affinity, template.map_or(0, |template| template.items));
        let before = previous.as_ref().map_or(0, |step| step.bytes());
        let tell = move |input: &[Item]| {
            let said = previous.as_ref().map(Step::transcript).unwrap_or_default();
            let whole = || whole(instructions.as_ref(), &said, input);
            let history = history.or_else(|| affinity.then(|| History::of(whole())));
            (tools::upstream_items(whole().skip(templated)), history)
        };
        let (mut items, history) = self.with_input(plan, before, tell).await?;
        let request = &plan.request;
        items.extend(tools::demand(request));
        self.check_foreign_window(&items, &plan.model)?;
        let mut shape = Shape::of(request, &plan.model.id);
        shape.template = template.map(|template| template.thread.clone());
        let options = turn_options(request);
        let mut retried = false;
        loop {
            let mut thread = self.fresh_thread(connection, &shape).await.map_err(failure::of_request)?;
            match thread.start_turn(&items, &options).await {
                Ok(turn) => {
                    let instructions = request.instructions.clone();
                    return Ok((
                        LiveThread { thread, _disk: None, shape, instructions, history, spoiled: false },
                        turn,
                    ));
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

    /// One that is ready, on whichever connection, or a new one on this.
    pub(super) async fn fresh_thread(
        &self,
        connection: &Connection,
        shape: &Shape,
    ) -> Result<Thread, AppServerError> {
        let (generation, current) = (connection.generation(), self.app_server.current());
        // Where this one is no longer current, the others may be under another login.
        if current.contains(&generation)
            && let Some(thread) = self.threads.take_spare(shape, generation, &current)
        {
            return Ok(thread);
        }
        self.start_thread(connection, shape).await
    }

    async fn start_thread(&self, connection: &Connection, shape: &Shape) -> Result<Thread, AppServerError> {
        let options = self.thread_options(shape);
        match &shape.template {
            Some(template) => connection.fork_thread(template, &options).await.inspect_err(|error| {
                // Any other error says nothing of the template.
                if let AppServerError::Refused { .. } = error {
                    self.templates.give_up(template);
                }
            }),
            None => connection.start_thread(&options).await,
        }
    }

    /// What a thread of `shape` starts with.
    pub(super) fn thread_options(&self, shape: &Shape) -> ThreadOptions {
        let mut options = self.app_server.thread_options(&shape.model, shape.verbosity.as_deref());
        options.dynamic_tools = shape.tools.dynamic().to_vec();
        options.web_search.clone_from(&shape.web_search);
        options.image_generation = shape.image_generation;
        options
    }

    /// An app-server that is not ours would rewrite a conversation that nears its window, without a word:
    /// refuse it first. The estimate is the app-server's own, four bytes a token.
    pub(super) fn check_foreign_window(&self, items: &[Item], model: &ModelInfo) -> Result<(), BridgeError> {
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

/// All that is said up to the answer.
pub(super) fn whole<'a>(
    instructions: Option<&'a Item>,
    said: &'a [Item],
    input: &'a [Item],
) -> impl Iterator<Item = &'a Item> {
    instructions.into_iter().chain(said).chain(input)
}

/// Lets a held turn go on with its outputs. What follows them goes in first: the app-server puts it after the
/// outputs, where later it might come too late.
async fn resume(
    resumption: Resumption,
    request: &TurnRequest,
) -> Result<(HeldTurn, Arc<Step>, Vec<Item>), AppServerError> {
    let Resumption { mut held, calls, mut answers, step, input } = resumption;
    let mut ready = Vec::with_capacity(calls.len());
    for call in &calls {
        let reply = held.replies.iter().find(|(id, _)| id == call);
        if let (Some((_, reply)), Some(content)) = (reply, answers.take(call)) {
            // All of them before the first is sent: half the answers would let a turn go on that is made anew.
            ready.push((reply, reply.prepare(&content)?));
        }
    }
    let mut extras = answers.extras.clone();
    extras.extend(tools::demand(request));
    held.live.thread.inject(&extras).await?;
    for (reply, answer) in ready {
        reply.send(answer).await?;
    }
    held.replies.clear();
    held.live.said(&input);
    Ok((held, step, input))
}

/// By what name the session goes upstream: one that the app-server does not keep for itself.
const SESSION_NAME: &str = "client_session_id";
/// And what the request's metadata calls so, where the session has another name.
const OWN_SESSION_NAME: &str = "client_metadata_session_id";

/// The item that the request's instructions go in as, before all others.
pub(super) fn instructions(request: &TurnRequest) -> Option<Item> {
    request.instructions.as_ref().map(|text| Item::input_text("developer", text))
}

pub(super) fn turn_options(request: &TurnRequest) -> TurnOptions {
    let mut client_metadata = request.client_metadata.clone();
    let session = request.session.id().to_string();
    let own = client_metadata.insert(SESSION_NAME.into(), session.clone());
    if let Some(own) = own.filter(|own| *own != session) {
        client_metadata.insert(OWN_SESSION_NAME.into(), own);
    }
    TurnOptions {
        effort: request.effort.clone(),
        summary: request.summary.clone(),
        service_tier: request.service_tier.clone(),
        output_schema: request.output_schema.clone(),
        client_metadata,
    }
}
