//! Turns, slots, continuations: one decoded request becomes one answered turn.
//!
//! Knows neither HTTP nor JSON-RPC.

mod affinity;
mod calls;
mod continuations;
mod counted;
mod emulate;
mod error;
mod failure;
mod health;
mod held;
mod progress;
mod pump;
mod references;
mod replay;
mod slots;
mod start;
mod templates;
mod threads;
mod tools;
mod turn;

pub use continuations::ContinuationCounts;
pub use error::BridgeError;
#[cfg(test)]
pub(crate) use failure::meanings as failure_meanings;
pub use health::{AppServerHealth, ContinuationHealth, Health, SlotHealth, StoreHealth};
pub use turn::{Turn, TurnStep};

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::app_server::AppServer;
use crate::config::{Config, ModelsConfig, StreamConfig, TurnConfig};
use crate::model::{
    Ended, Item, KeyId, LoginState, ModelInfo, Phases, ResponseId, SessionIdentity, TurnRequest,
};
use crate::store::ResponseStore;
use crate::tasks::Tasks;
use continuations::{Continuations, Found, Step, Wanted};
use held::Held;
use pump::Pump;
use references::{Holder, References};
use slots::Slots;
use start::{Plan, start_timed_out};
use templates::Templates;
use threads::Threads;

/// How often what has expired is let go.
const SWEEP: Duration = Duration::from_secs(5);
/// How often the store is asked to do the same.
const STORE_SWEEP: Duration = Duration::from_secs(30);
/// How long health waits for the app-server.
const HEALTH_TIMEOUT: Duration = Duration::from_millis(500);
/// How long the end waits until the templates are deleted.
const DELETION: Duration = Duration::from_secs(1);

/// The engine. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Bridge(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    app_server: AppServer,
    models: ModelsConfig,
    turn: TurnConfig,
    stream: StreamConfig,
    slots: Slots,
    continuations: Continuations,
    references: References,
    threads: Threads,
    /// Whether a conversation that comes whole goes on in a warm thread that holds its beginning.
    affinity: bool,
    templates: Templates,
    held: Held,
    tasks: Tasks,
    /// Cancelled when turns that still run are no longer waited for.
    kill: CancellationToken,
}

impl Bridge {
    /// Wires the engine and starts its sweepers.
    pub fn new(app_server: AppServer, store: Arc<dyn ResponseStore>, config: &Config, tasks: &Tasks) -> Self {
        let inner = Arc::new(Inner {
            app_server,
            models: config.models.clone(),
            turn: config.turn.clone(),
            stream: config.stream.clone(),
            slots: Slots::new(config.admission.clone()),
            continuations: Continuations::new(&config.continuation, store),
            references: References::new(config.continuation.ttl),
            threads: Threads::new(config.continuation.clone()),
            affinity: config.continuation.affinity,
            templates: Templates::new(&config.continuation),
            held: Held::new(&config.continuation),
            tasks: tasks.clone(),
            kill: CancellationToken::new(),
        });
        tasks.spawn("sweeper", sweep(Arc::downgrade(&inner), tasks.stop_token().clone()));
        tasks.spawn("store sweeper", sweep_store(Arc::downgrade(&inner), tasks.stop_token().clone()));
        Self(inner)
    }

    /// Admits the request, finds or makes its thread, and starts its turn.
    pub async fn run(&self, request: TurnRequest) -> Result<Turn, BridgeError> {
        let trace = request.trace.clone();
        // Boxed: it is some 20 KB, and whoever waits for it would carry them along.
        let started = Box::pin(self.admit_and_start(request)).await;
        if started.is_err() {
            let done = trace.elapsed();
            trace.note(|trace| (trace.phases.done, trace.ended) = (Some(done), Some(Ended::Failed)));
        }
        started
    }

    async fn admit_and_start(&self, mut request: TurnRequest) -> Result<Turn, BridgeError> {
        let inner = &self.0;
        if self.is_draining() {
            return Err(BridgeError::Draining);
        }
        let model = self.resolve_model(request.model.as_deref()).await?;
        let mut account = self.account().await?;
        let (referred, mut previous) = inner.prepare(&mut request, account.clone()).await?;
        let before = previous.as_ref().map(|found| &found.step);
        check_modalities(before, &request.input, &model)?;
        calls::check_paired(before, &request.input)?;
        let slot = inner.slots.acquire().await?;
        // The login may have changed while the request waited: what goes to the model is the new one's.
        let now = self.account().await?;
        if now != account {
            for (index, item) in referred {
                request.input[index] = item;
            }
            (_, previous) = inner.prepare(&mut request, now.clone()).await?;
            account = now;
        }
        let queued = request.trace.elapsed();
        request.trace.note(|trace| trace.phases = Phases { queued: Some(queued), ..Phases::default() });
        let deadline = Instant::now() + inner.turn.deadline;

        let other_account = previous.as_ref().is_some_and(|found| found.other_account);
        let previous = previous.map(|found: Found| found.step);
        let plan = Plan { request, model, account, previous, other_account };
        let started = tokio::time::timeout_at(deadline, inner.start(plan)).await;
        let started = started.map_err(|_| start_timed_out(inner.turn.deadline))??;
        let (request, model) = (&started.plan.request, &started.plan.model.id);
        debug!(response_id = %request.response_id, thread = %started.live.thread.id(), turn = %started.turn,
            "turn started");
        let (sender, handle) = turn::channel(request.response_id.clone(), model.clone(), &inner.stream);
        let pump = Pump::new(Arc::clone(inner), started, sender, slot, deadline);
        inner.tasks.spawn("turn", pump.run());
        Ok(handle)
    }

    /// The account that is logged in; `None` where the provider wants none.
    async fn account(&self) -> Result<Option<String>, BridgeError> {
        match self.0.app_server.login().await.map_err(failure::of_request)? {
            LoginState::LoggedIn(account) => Ok(Some(account.identity)),
            LoginState::NotNeeded => Ok(None),
            LoginState::LoggedOut => Err(BridgeError::LoginRequired { message: self.logged_out().await }),
        }
    }

    /// Whether the app-server brings tools of its own (web search for any model, image generation): one of ours
    /// does, under a ChatGPT login.
    pub async fn has_own_tools(&self) -> Result<bool, BridgeError> {
        let login = self.0.app_server.login().await.map_err(failure::of_request)?;
        let is_chatgpt = matches!(login, LoginState::LoggedIn(account) if account.kind == "chatgpt");
        Ok(is_chatgpt && self.0.app_server.owns_app_server())
    }

    /// The catalogue as it is now, hidden models included.
    pub async fn models(&self) -> Result<Arc<[ModelInfo]>, BridgeError> {
        self.0.app_server.models().await.map_err(failure::of_request)
    }

    /// The catalogue id that answers to `name` (aliases, the default for `None`).
    pub async fn resolve_model(&self, name: Option<&str>) -> Result<ModelInfo, BridgeError> {
        let config = &self.0.models;
        let asked = name.or(config.default_model.as_deref());
        let wanted = asked.map(|name| config.aliases.get(name).map_or(name, String::as_str));
        if let Some(model) = pick(&self.models().await?, wanted) {
            return Ok(model);
        }
        // The catalogue may have moved since it was last looked at.
        let fresh = self.0.app_server.models_fresh().await.map_err(failure::of_request)?;
        pick(&fresh, wanted).ok_or_else(|| BridgeError::ModelNotFound {
            model: asked.unwrap_or("(the account's default)").to_owned(),
        })
    }

    /// How things stand. Never waits on the app-server for longer than a short bound.
    pub async fn health(&self) -> Health {
        let inner = &self.0;
        let status = inner.app_server.status();
        let draining = self.is_draining();
        let continuations = &inner.continuations;
        let (alive, login, stored) = tokio::join!(
            inner.app_server.probe(HEALTH_TIMEOUT),
            tokio::time::timeout(HEALTH_TIMEOUT, inner.app_server.login()),
            tokio::time::timeout(HEALTH_TIMEOUT, continuations.stored_size()),
        );
        let stored = stored.ok().flatten();
        let login = login.ok().and_then(Result::ok);
        let reason = if draining {
            Some("The bridge is shutting down.".to_owned())
        } else if !alive {
            Some(status.reason.clone().unwrap_or_else(|| "The app-server does not answer.".to_owned()))
        } else if login == Some(LoginState::LoggedOut) {
            Some(self.logged_out().await)
        } else {
            None
        };
        let (records, bytes) = continuations.recent_size();
        let (warm_threads, spare_threads) = inner.threads.counts();
        Health {
            ready: reason.is_none(),
            reason,
            draining,
            login,
            app_server: AppServerHealth {
                state: status.state.as_str(),
                mode: status.mode.as_str(),
                version: status.version,
                generation: status.generation,
                pid: status.pid,
                memory: status.memory,
                last_disconnect: status.last_disconnect,
                alive,
            },
            slots: inner.slots.health(),
            continuation: ContinuationHealth {
                durability: continuations.durability(),
                records,
                bytes,
                warm_threads,
                spare_threads,
                templates: inner.templates.count(),
                held_turns: inner.held.count(),
                store: StoreHealth {
                    outage: continuations.outage(),
                    records: stored.map(|(records, _)| records),
                    bytes: stored.map(|(_, bytes)| bytes),
                },
                counts: continuations.counts(),
            },
        }
    }

    /// Forgets a response of `key`; what continues it goes on. Gives whether there was one.
    pub async fn delete_response(&self, id: &ResponseId, key: &KeyId) -> Result<bool, BridgeError> {
        self.0.references.forget(key, id);
        self.0.continuations.delete(id, key).await
    }

    /// The same, for whoever cannot wait for it.
    pub fn forget_response(&self, id: ResponseId, key: KeyId) {
        let bridge = self.clone();
        self.0.tasks.spawn("deletion", async move {
            if let Err(error) = bridge.delete_response(&id, &key).await {
                warn!(response_id = %id, %error, "a failed answer is still kept");
            }
        });
    }

    /// What to do about it, for people.
    async fn logged_out(&self) -> String {
        match self.0.app_server.login_hint().await {
            Some(hint) => format!("Nobody is logged in. {hint}"),
            None => "Nobody is logged in. Run `codex login` on the machine of the bridge.".to_owned(),
        }
    }

    /// Refuses new calls and everyone who waits; turns that run go on.
    pub fn begin_drain(&self) {
        self.0.slots.close();
    }

    /// Waits until no turn runs; past `limit` the rest is interrupted. Gives how many were.
    pub async fn drain(&self, limit: Duration) -> usize {
        const TICK: Duration = Duration::from_millis(20);
        self.begin_drain();
        let until = Instant::now() + limit;
        while self.0.slots.health().in_use > 0 && Instant::now() < until {
            tokio::time::sleep(TICK).await;
        }
        let left = self.0.slots.health().in_use;
        self.0.kill.cancel();
        self.0.held.clear();
        self.0.threads.clear();
        self.0.templates.clear();
        // What is not deleted by then is deleted when the app-server has stopped.
        let _ = tokio::time::timeout(DELETION, self.0.delete_templates()).await;
        left
    }

    fn is_draining(&self) -> bool {
        self.0.slots.is_closed()
    }
}

impl Inner {
    /// Finds what the request refers to, for the login `account`: items, which take the place of their references
    /// (given back), and the chain that it continues.
    async fn prepare(
        &self,
        request: &mut TurnRequest,
        account: Option<String>,
    ) -> Result<(Vec<(usize, Item)>, Option<Found>), BridgeError> {
        let holder = Holder { key: request.key.clone(), account };
        let referred = self.references.resolve(&holder, &mut request.input)?;
        let previous = match &request.previous {
            None => None,
            Some(id) => {
                let (account, more) = (holder.account.as_deref(), request.input.len());
                Some(self.continuations.find(Wanted { id, key: &request.key, account, more }).await?)
            }
        };
        if let Some(previous) = previous.as_ref().filter(|_| !request.session.is_named()) {
            request.session = SessionIdentity::inherited(previous.session.clone());
        }
        request.trace.note(|trace| trace.session = Some(request.session.clone()));
        Ok((referred, previous))
    }
}

/// What the model does not take would become a sentence without a word, in what was said before too.
fn check_modalities(
    before: Option<&Arc<Step>>,
    input: &[Item],
    model: &ModelInfo,
) -> Result<(), BridgeError> {
    let said = |has: fn(&Step) -> bool| before.is_some_and(|step| has(step));
    let media = [
        ("input_image", "images", model.takes_images(), said(Step::has_image)),
        ("input_audio", "audio", model.takes_audio(), said(Step::has_audio)),
    ];
    for (part, what, taken, said) in media {
        let given = input.iter().any(|item| item.has_part(part));
        if !taken && (given || said) {
            let param = if given { "input" } else { "previous_response_id" };
            return Err(BridgeError::InvalidRequest {
                message: format!(
                    "The model '{}' does not take {what}, and the conversation has some.",
                    model.id
                ),
                param: Some(param.into()),
                code: Some("unsupported_value".into()),
            });
        }
    }
    Ok(())
}

/// The named model, or the account's default.
fn pick(models: &[ModelInfo], wanted: Option<&str>) -> Option<ModelInfo> {
    match wanted {
        Some(id) => models.iter().find(|model| model.id == id).cloned(),
        None => models.iter().find(|model| model.is_default).or_else(|| models.first()).cloned(),
    }
}

/// Lets go of what has expired until the bridge is gone or stops.
async fn sweep(inner: std::sync::Weak<Inner>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(SWEEP);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Some(inner) = inner.upgrade() else { return };
        let records = inner.continuations.sweep();
        inner.app_server.sweep_images().await;
        let generation = inner.app_server.status().generation;
        inner.threads.sweep(generation);
        inner.held.sweep(generation);
        if inner.templates.sweep() {
            let deleting = Arc::clone(&inner);
            inner.tasks.spawn("template deletion", async move { deleting.delete_templates().await });
        }
        if records > 0 {
            debug!(records, "continuation records expired");
        }
    }
}

/// The same for the store, which may take its time.
async fn sweep_store(inner: std::sync::Weak<Inner>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(STORE_SWEEP);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Some(inner) = inner.upgrade() else { return };
        let swept = tokio::select! {
            () = stop.cancelled() => return,
            swept = inner.continuations.sweep_store() => swept,
        };
        if swept > 0 {
            debug!(records = swept, "stored responses expired");
        }
    }
}

#[cfg(test)]
mod tests;
