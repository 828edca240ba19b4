//! Turns, slots, continuations: one decoded request becomes one answered turn.
//!
//! Knows neither HTTP nor JSON-RPC.

mod affinity;
mod breaker;
mod calls;
mod compaction;
mod continuations;
mod counted;
mod dry_run;
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
mod spent;
mod start;
mod templates;
mod threads;
mod tools;
mod turn;
mod upstream;
mod warm_up;

pub use crate::app_server::{ProcessStatus, Unsent};
pub use breaker::{BreakerHealth, FaultCounts};
pub use continuations::ContinuationCounts;
pub use dry_run::DryRun;
pub use error::BridgeError;
#[cfg(test)]
pub(crate) use failure::meanings as failure_meanings;
pub use health::{AppServerHealth, ContinuationHealth, Health, SlotHealth, StoreHealth};
pub use slots::SlotCounts;
pub use spent::Spent;
pub use turn::{Turn, TurnStep};
pub use upstream::{AccountHealth, Block};

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::app_server::{AppServer, AppServerError};
use crate::config::{Config, ModelsConfig, StreamConfig, TurnConfig};
use crate::model::{Ended, Item, KeyId, LoginState, ModelInfo, Phases, ResponseId, TurnRequest};
use crate::store::{Chain, ResponseStore, StoredResponse};
use crate::tasks::Tasks;
use crate::tasks::shares::Shares;
use breaker::Breaker;
use continuations::{Continuations, Found, Step, Wanted};
use held::Held;
use pump::{Admitted, Pump};
use references::{Holder, References};
use slots::{Claim, Slots};
use spent::Ledger;
use start::{Plan, start_timed_out};
use templates::Templates;
use threads::Threads;
use upstream::Upstream;

/// How often what has expired is let go.
const SWEEP: Duration = Duration::from_secs(5);
/// How often the store is asked to do the same.
const STORE_SWEEP: Duration = Duration::from_secs(30);
/// How long health waits for the app-server.
const HEALTH_TIMEOUT: Duration = Duration::from_millis(500);
/// So many may wait for the app-server at least, whatever `admission` says: whoever lists models waits too.
const WAITING: usize = 64;
/// How long the end waits until the templates are deleted.
const DELETION: Duration = Duration::from_secs(1);

/// The engine, and the key for which it is asked what the app-server knows. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Bridge(Arc<Inner>, KeyId);

#[derive(Debug)]
struct Inner {
    app_server: AppServer,
    models: ModelsConfig,
    turn: TurnConfig,
    stream: StreamConfig,
    slots: Slots,
    upstream: Upstream,
    breaker: Breaker,
    spent: Ledger,
    continuations: Continuations,
    references: References,
    threads: Threads,
    /// Whether a conversation that comes whole goes on in a warm thread that holds its beginning.
    affinity: bool,
    templates: Templates,
    held: Held,
    /// Turns run again because the app-server was lost under them.
    reruns: AtomicU64,
    tasks: Tasks,
    /// Cancelled when turns that still run are no longer waited for.
    kill: CancellationToken,
    /// One permit for each who waits for the app-server without a slot.
    waiting: Semaphore,
    /// Of those, each key's.
    waiting_shares: Shares,
    /// One permit a dry run.
    dry_runs: Arc<Semaphore>,
}

/// What a request refers to.
struct Referred {
    /// Items that took the place of their references, as they came.
    items: Vec<(usize, Item)>,
    previous: Option<Found>,
}

impl Bridge {
    /// Wires the engine and starts its sweepers.
    pub fn new(app_server: AppServer, store: Arc<dyn ResponseStore>, config: &Config, tasks: &Tasks) -> Self {
        let waiting = (config.admission.slots + config.admission.queue).max(WAITING);
        let inner = Arc::new(Inner {
            app_server,
            models: config.models.clone(),
            turn: config.turn.clone(),
            stream: config.stream.clone(),
            slots: Slots::new(&config.admission),
            upstream: Upstream::new(config.upstream.clone()),
            breaker: Breaker::new(config.breaker.clone()),
            spent: Ledger::new(),
            continuations: Continuations::new(&config.continuation, store, tasks),
            references: References::new(config.continuation.ttl),
            threads: Threads::new(config.continuation.clone()),
            affinity: config.continuation.affinity,
            templates: Templates::new(&config.continuation),
            held: Held::new(&config.continuation),
            reruns: AtomicU64::new(0),
            tasks: tasks.clone(),
            kill: CancellationToken::new(),
            waiting: Semaphore::new(waiting),
            waiting_shares: Shares::of(waiting),
            dry_runs: Arc::new(Semaphore::new(dry_run::AT_ONCE)),
        });
        tasks.spawn("sweeper", sweep(Arc::downgrade(&inner), tasks.stop_token().clone()));
        tasks.spawn("store sweeper", sweep_store(Arc::downgrade(&inner), tasks.stop_token().clone()));
        Self(inner, KeyId::anonymous())
    }

    /// The same, asked by `key`: of those who may wait for the app-server half at most are one key's.
    #[must_use]
    pub fn asked_by(&self, key: KeyId) -> Self {
        Self(Arc::clone(&self.0), key)
    }

    /// Admits the request, finds or makes its thread, and starts its turn.
    pub async fn run(&self, request: TurnRequest) -> Result<Turn, BridgeError> {
        let trace = request.trace.clone();
        // A repair has the trace of what it repairs: that has not ended after all.
        trace.note(|trace| (trace.phases.done, trace.ended) = (None, None));
        // Boxed: it is some 20 KB, and whoever waits for it would carry them along.
        let (until, limit) = (request.until, request.time_limit(self.0.turn.deadline));
        let starting = Box::pin(self.admit_and_start(request));
        let started = match until {
            Some(until) => {
                let started = tokio::time::timeout_at(until, starting).await;
                started.unwrap_or_else(|_| Err(start_timed_out(limit)))
            }
            None => starting.await,
        };
        if started.is_err() {
            let done = trace.elapsed();
            trace.note(|trace| (trace.phases.done, trace.ended) = (Some(done), Some(Ended::Failed)));
        }
        started
    }

    async fn admit_and_start(&self, mut request: TurnRequest) -> Result<Turn, BridgeError> {
        let inner = &self.0;
        if self.is_draining() && !request.ticket.has_begun() {
            return Err(BridgeError::Draining);
        }
        let asked = self.asked_by(request.key.clone());
        let model = asked.resolve_model(request.model.as_deref()).await?;
        let mut account = asked.account().await?;
        inner.check_account(&request.input)?;
        inner.breaker.check()?;
        let Referred { items, mut previous } = self.refer(&mut request, &model, account.clone()).await?;
        let slot = inner.slots.acquire(Claim::of(&request)).await?;
        let limit = request.time_limit(inner.turn.deadline);
        let deadline = request.until.unwrap_or_else(|| Instant::now() + limit);
        // The login may have changed while the request waited: what goes to the model is the new one's, and runs on a
        // connection that is under it.
        let connecting = tokio::time::timeout_at(deadline, inner.connection()).await;
        let (connection, login) = connecting.map_err(|_| start_timed_out(limit))??;
        let now = self.account_of(login).await?;
        if now != account {
            for (index, item) in items {
                request.input[index] = item;
            }
            (_, previous) = inner.prepare(&mut request, now.clone()).await?;
            account = now;
        }
        // So may the windows have filled, and the backend have failed.
        inner.check_account(&request.input)?;
        let pass = inner.breaker.admit()?;
        let queued = request.trace.elapsed();
        request.trace.note(|trace| trace.phases = Phases { queued: Some(queued), ..Phases::default() });
        let other_account = previous.as_ref().is_some_and(|found| found.other_account);
        let previous = previous.map(|found: Found| found.step);
        let plan = Plan { request, model, account, previous, other_account, rerun: false };
        let started = tokio::time::timeout_at(deadline, inner.start(&connection, plan)).await;
        let started = started.map_err(|_| start_timed_out(limit))??;
        let (request, model) = (&started.plan.request, &started.plan.model.id);
        debug!(response_id = %request.response_id, thread = %started.live.thread.id(), turn = %started.turn,
            "turn started");
        let (sender, handle) =
            turn::channel(request.response_id.clone(), model.clone(), deadline, &inner.stream);
        let pump = Pump::new(Arc::clone(inner), started, sender, Admitted { slot, pass }, deadline);
        inner.tasks.spawn("turn", pump.run());
        Ok(handle)
    }

    /// Finds what the request refers to, for the login `account`, and checks the whole.
    async fn refer(
        &self,
        request: &mut TurnRequest,
        model: &ModelInfo,
        account: Option<String>,
    ) -> Result<Referred, BridgeError> {
        let (items, previous) = self.0.prepare(request, account).await?;
        let before = previous.as_ref().map(|found| &found.step);
        check_modalities(before, &request.input, model)?;
        calls::check_paired(before, &request.input)?;
        Ok(Referred { items, previous })
    }

    /// The account that is logged in; `None` where the provider wants none.
    async fn account(&self) -> Result<Option<String>, BridgeError> {
        let login = self.0.waits(&self.1, self.0.app_server.login()).await?;
        self.account_of(login).await
    }

    async fn account_of(&self, login: LoginState) -> Result<Option<String>, BridgeError> {
        match login {
            LoginState::LoggedIn(account) => Ok(Some(account.identity)),
            LoginState::NotNeeded => Ok(None),
            LoginState::LoggedOut => Err(BridgeError::LoginRequired { message: self.logged_out().await }),
        }
    }

    /// Whether the app-server brings tools of its own (web search for any model, image generation): one of ours
    /// does, under a ChatGPT login.
    pub async fn has_own_tools(&self) -> Result<bool, BridgeError> {
        let login = self.0.waits(&self.1, self.0.app_server.login()).await?;
        let is_chatgpt = matches!(login, LoginState::LoggedIn(account) if account.kind == "chatgpt");
        Ok(is_chatgpt && self.0.app_server.owns_app_server())
    }

    /// Whether compaction items that are none of ours can be the backend's.
    pub async fn knows_compactions(&self) -> Result<bool, BridgeError> {
        let login = self.0.waits(&self.1, self.0.app_server.login()).await?;
        Ok(matches!(login, LoginState::LoggedIn(_)))
    }

    /// The catalogue as it is now, hidden models included.
    pub async fn models(&self) -> Result<Arc<[ModelInfo]>, BridgeError> {
        self.0.waits(&self.1, self.0.app_server.models()).await
    }

    /// The catalogue id that answers to `name` (aliases, the default for `None`).
    pub async fn resolve_model(&self, name: Option<&str>) -> Result<ModelInfo, BridgeError> {
        let wanted = self.named_model(name);
        if let Some(model) = pick(&self.models().await?, wanted) {
            return Ok(model);
        }
        // The catalogue may have moved since it was last looked at.
        let fresh = self.0.waits(&self.1, self.0.app_server.models_fresh()).await?;
        pick(&fresh, wanted).ok_or_else(|| BridgeError::ModelNotFound {
            model: self.asked_model(name).unwrap_or("(the account's default)").to_owned(),
        })
    }

    /// The catalogue id that `name` or the configured default stands for; `None` where it is the account's to say.
    pub fn named_model<'a>(&'a self, name: Option<&'a str>) -> Option<&'a str> {
        self.asked_model(name).map(|name| self.catalogue_id(name))
    }

    fn asked_model<'a>(&'a self, name: Option<&'a str>) -> Option<&'a str> {
        name.or(self.0.models.default_model.as_deref())
    }

    /// What `name` stands for, where it is an alias.
    pub fn catalogue_id<'a>(&'a self, name: &'a str) -> &'a str {
        self.0.models.aliases.get(name).map_or(name, String::as_str)
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
                reruns: inner.reruns.load(Ordering::Relaxed),
                orphans: status.orphans,
                bytes_sent: status.bytes_sent,
                processes: status.processes,
            },
            slots: inner.slots.health(),
            account: self.account_health(),
            breaker: inner.breaker.health(),
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

    /// The stored response of `key`'s; `None` if there is none, for whatever reason.
    pub async fn stored_response(
        &self,
        id: &ResponseId,
        key: &KeyId,
    ) -> Result<Option<StoredResponse>, BridgeError> {
        self.0.continuations.stored(id, key).await
    }

    /// The same, with the items before it.
    pub async fn stored_chain(&self, id: &ResponseId, key: &KeyId) -> Result<Option<Chain>, BridgeError> {
        self.0.continuations.stored_chain(id, key).await
    }

    /// The account's windows as last told, and whether they let calls through. Never waits.
    pub fn account_health(&self) -> AccountHealth {
        self.0.account_health()
    }

    /// The same, asked for where what is known is old. Waits no longer than a short bound.
    pub async fn account_now(&self) -> AccountHealth {
        // Only a login has windows, and it may not have been looked at yet.
        let _ = tokio::time::timeout(HEALTH_TIMEOUT, self.0.app_server.login()).await;
        self.0.refresh_windows().await;
        self.account_health()
    }

    /// What was used, and since when, by key and model.
    pub fn spent(&self) -> (SystemTime, Vec<(KeyId, String, Spent)>) {
        (self.0.spent.since(), self.0.spent.all())
    }

    /// Forgets a response of `key`; what continues it goes on. Gives whether there was one.
    pub async fn delete_response(&self, id: &ResponseId, key: &KeyId) -> Result<bool, BridgeError> {
        self.0.references.forget(key, id);
        let deleted = self.0.continuations.delete(id, key).await?;
        if deleted {
            // Nobody can name it any more.
            self.0.threads.forget(id);
            self.0.held.forget(id);
        }
        Ok(deleted)
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
            Some(hint) => hint,
            None => "Nobody is logged in. Run `codex login` on the machine of the bridge.".to_owned(),
        }
    }

    /// Refuses new calls and everyone who waits; calls that have begun go on to their end.
    pub fn begin_drain(&self) {
        self.0.slots.close();
    }

    /// Waits until no call runs; past `limit` the rest is interrupted. Gives how many turns were.
    pub async fn drain(&self, limit: Duration) -> usize {
        const TICK: Duration = Duration::from_millis(20);
        self.begin_drain();
        let until = Instant::now() + limit;
        let runs = || self.0.slots.health().in_use > 0 || self.0.slots.calls() > 0;
        while runs() && Instant::now() < until {
            tokio::time::sleep(TICK).await;
        }
        self.0.slots.shut();
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
    /// What the app-server tells, for one who has no slot yet: only so many wait for it at once, and it may take as
    /// long as the app-server does to start.
    async fn waits<T>(
        &self,
        key: &KeyId,
        told: impl Future<Output = Result<T, AppServerError>>,
    ) -> Result<T, BridgeError> {
        let full = |_| BridgeError::Unavailable { reason: "as many calls wait for it as may".into() };
        let share = self.waiting_shares.of_key(key);
        let _of_share = share.map(Semaphore::try_acquire_owned).transpose().map_err(full)?;
        let _place = self.waiting.try_acquire().map_err(full)?;
        told.await.map_err(failure::of_request)
    }

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
                let wanted = Wanted {
                    id,
                    key: &request.key,
                    account: holder.account.as_deref(),
                    more: request.input.len(),
                    is_repair: request.until.is_some(),
                };
                Some(self.continuations.find(wanted).await?)
            }
        };
        if let Some(previous) = previous.as_ref().filter(|_| !request.session.is_named()) {
            request.session = previous.session.clone();
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
        let current = inner.app_server.current();
        inner.threads.sweep(&current);
        inner.held.sweep(&current);
        inner.app_server.sweep_sessions(inner.templates.threads()).await;
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
