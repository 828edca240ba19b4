//! Turns, slots, continuations: one decoded request becomes one answered turn.
//!
//! Knows neither HTTP nor JSON-RPC.

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
mod replay;
mod slots;
mod start;
mod threads;
mod tools;
mod turn;

pub use error::BridgeError;
pub use health::{AppServerHealth, ContinuationHealth, Health, SlotHealth};
pub use turn::{Turn, TurnStep};

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::app_server::AppServer;
use crate::config::{Config, ModelsConfig, StreamConfig, TurnConfig};
use crate::model::{Item, LoginState, ModelInfo, ResponseId, TurnRequest};
use crate::tasks::Tasks;
use continuations::{Continuations, Miss, Record};
use held::Held;
use pump::Pump;
use slots::Slots;
use start::{Plan, start_timed_out};
use threads::Threads;

/// How often what has expired is let go.
const SWEEP: Duration = Duration::from_secs(5);
/// How long health waits for the app-server.
const HEALTH_TIMEOUT: Duration = Duration::from_millis(500);
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
    registry: Continuations,
    threads: Threads,
    held: Held,
    tasks: Tasks,
    /// Cancelled when turns that still run are no longer waited for.
    kill: CancellationToken,
}

impl Bridge {
    /// Wires the engine and starts its sweeper.
    pub fn new(app_server: AppServer, config: &Config, tasks: &Tasks) -> Self {
        let inner = Arc::new(Inner {
            app_server,
            models: config.models.clone(),
            turn: config.turn.clone(),
            stream: config.stream.clone(),
            slots: Slots::new(config.admission.clone()),
            registry: Continuations::new(&config.continuation),
            threads: Threads::new(config.continuation.clone()),
            held: Held::new(&config.continuation),
            tasks: tasks.clone(),
            kill: CancellationToken::new(),
        });
        tasks.spawn("sweeper", sweep(Arc::downgrade(&inner), tasks.stop_token().clone()));
        Self(inner)
    }

    /// Admits the request, finds or makes its thread, and starts its turn.
    pub async fn run(&self, request: TurnRequest) -> Result<Turn, BridgeError> {
        let inner = &self.0;
        if self.is_draining() {
            return Err(BridgeError::Draining);
        }
        let model = self.resolve_model(request.model.as_deref()).await?;
        check_modalities(&request, &model)?;
        let login = inner.app_server.login().await.map_err(failure::of_request)?;
        let account = match login {
            LoginState::LoggedIn(account) => Some(account.identity),
            LoginState::NotNeeded => None,
            LoginState::LoggedOut => {
                return Err(BridgeError::LoginRequired { message: self.logged_out().await });
            }
        };
        let previous = match &request.previous {
            None => None,
            Some(id) => Some(inner.find(id, &request, account.as_deref())?),
        };
        let said = previous.as_ref().map(|record| record.step.transcript()).unwrap_or_default();
        calls::check_paired(said.iter().chain(&request.input))?;
        let slot = inner.slots.acquire().await?;
        let deadline = Instant::now() + inner.turn.deadline;

        let previous = previous.map(|record| record.step);
        let plan = Plan { request, model, account, previous };
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
        let (alive, login) = tokio::join!(
            inner.app_server.probe(HEALTH_TIMEOUT),
            tokio::time::timeout(HEALTH_TIMEOUT, inner.app_server.login()),
        );
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
        let (records, bytes) = inner.registry.size();
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
                last_disconnect: status.last_disconnect,
                alive,
            },
            slots: inner.slots.health(),
            continuation: ContinuationHealth {
                durability: "memory",
                records,
                bytes,
                warm_threads,
                spare_threads,
                held_turns: inner.held.count(),
            },
        }
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
        left
    }

    fn is_draining(&self) -> bool {
        self.0.slots.is_closed()
    }
}

impl Inner {
    /// The record to continue. The caller hears one answer for all that is not there; the log knows better.
    fn find(
        &self,
        id: &ResponseId,
        request: &TurnRequest,
        account: Option<&str>,
    ) -> Result<Record, BridgeError> {
        let record = self.registry.find(id, &request.key).map_err(|miss| {
            let reason = match miss {
                Miss::Unknown => "unknown",
                Miss::Expired => "expired",
                Miss::OtherKey => "another key's",
            };
            info!(response_id = %request.response_id, previous = %id, reason, "nothing to continue");
            BridgeError::PreviousNotFound { id: id.to_string() }
        })?;
        if record.account.as_deref() != account {
            return Err(BridgeError::AccountMismatch { id: id.to_string() });
        }
        Ok(record)
    }
}

/// A model that takes no images would drop them without a word.
fn check_modalities(request: &TurnRequest, model: &ModelInfo) -> Result<(), BridgeError> {
    let takes_images = model.input_modalities.is_empty()
        || model.input_modalities.iter().any(|modality| modality == "image");
    if takes_images || !request.input.iter().any(Item::has_image) {
        return Ok(());
    }
    Err(BridgeError::InvalidRequest {
        message: format!("The model '{}' does not take image input.", model.id),
        param: Some("input".into()),
        code: None,
    })
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
        let records = inner.registry.sweep();
        let generation = inner.app_server.status().generation;
        inner.threads.sweep(generation);
        inner.held.sweep(generation);
        if records > 0 {
            debug!(records, "continuation records expired");
        }
    }
}

#[cfg(test)]
mod tests;
