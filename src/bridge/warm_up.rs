//! A response without an answer: what a request says is kept for what continues it, with a thread that already has
//! it. No model is asked.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;
use tracing::debug;

use super::affinity::History;
use super::continuations::{Found, Step};
use super::slots::Claim;
use super::start::{self, start_timed_out};
use super::threads::{LiveThread, Owner, Rank, Shape, Warm};
use super::{Bridge, BridgeError, Inner, Referred, tools};
use crate::app_server::{AppServerError, Connection};
use crate::model::{
    Ended, KeyId, ModelInfo, Phases, ResponseId, Route, ThreadId, TurnId, TurnRequest, Usage,
};
use crate::store::StoredResponse;

/// What is to be kept.
struct Said<'a> {
    request: &'a TurnRequest,
    model: &'a ModelInfo,
    account: Option<&'a str>,
    step: &'a Arc<Step>,
}

impl Bridge {
    /// Keeps what the request says as a response that has no output, so that it can be continued at once. Gives the
    /// model's catalogue id. It waits for a slot as a turn does: it makes work for the app-server.
    pub async fn warm_up(&self, mut request: TurnRequest) -> Result<String, BridgeError> {
        let inner = &self.0;
        if self.is_draining() {
            return Err(BridgeError::Draining);
        }
        let model = self.resolve_model(request.model.as_deref()).await?;
        let account = self.account().await?;
        let Referred { previous, .. } = self.refer(&mut request, &model, account.clone()).await?;
        let limit = request.time_limit(inner.turn.deadline);
        let _slot = inner.slots.acquire(Claim::of(&request)).await?;
        let queued = request.trace.elapsed();
        request.trace.note(|trace| trace.phases = Phases { queued: Some(queued), ..Phases::default() });
        let previous = previous.map(|found: Found| found.step);
        let step = Step::new(previous.clone(), &request.input);
        let said = Said { request: &request, model: &model, account: account.as_deref(), step: &step };
        let warmed = tokio::time::timeout_at(Instant::now() + limit, inner.warm_thread(&said));
        let thread = warmed.await.map_err(|_| start_timed_out(limit))?;
        inner.keep_said(&said, thread).await;
        let done = request.trace.elapsed();
        request.trace.note(|trace| (trace.phases.done, trace.ended) = (Some(done), Some(Ended::Answered)));
        Ok(model.id)
    }

    /// Forgets a response that is in memory alone; what continues it goes on.
    pub fn forget_unstored(&self, id: &ResponseId, key: &KeyId) {
        let inner = &self.0;
        inner.references.forget(key, id);
        if inner.continuations.forget(id, key) {
            inner.threads.forget(id);
            inner.held.forget(id);
        }
    }
}

impl Inner {
    /// Puts what was said into a thread that waits for its continuation; gives its id. Without one the continuation
    /// is given all of it.
    async fn warm_thread(&self, said: &Said<'_>) -> Option<ThreadId> {
        let (connection, login) = self.connection().await.ok()?;
        // Another login's thread is of no use to whoever continues this one under its own.
        if login.identity() != said.account {
            return None;
        }
        let live = match self.thread_with(&connection, said).await {
            Ok(live) => live,
            Err(error) => {
                debug!(response_id = %said.request.response_id, %error, "no thread was warmed up");
                return None;
            }
        };
        let (tip, thread) = (said.request.response_id.clone(), live.thread.id().clone());
        let owner = Owner::of(said.request, said.account);
        let let_go = self.threads.keep_warm(Warm { tip, owner, rank: Rank::Conversation, live });
        drop(let_go);
        Some(thread)
    }

    async fn thread_with(
        &self,
        connection: &Connection,
        said: &Said<'_>,
    ) -> Result<LiveThread, AppServerError> {
        let Said { request, model, step, .. } = *said;
        let shape = Shape::of(request, &model.id);
        let thread = self.fresh_thread(connection, &shape).await?;
        let instructions = start::instructions(request);
        let transcript = step.transcript();
        let whole = || start::whole(instructions.as_ref(), &transcript, &[]);
        thread.inject(&tools::upstream_items(whole())).await?;
        let history = self.affinity.then(|| History::of(whole()));
        let instructions = request.instructions.clone();
        Ok(LiveThread { thread, _disk: None, shape, instructions, history, spoiled: false })
    }

    /// Makes it continuable, as its request asks.
    async fn keep_said(&self, said: &Said<'_>, thread: Option<ThreadId>) {
        let Said { request, model, account, step } = *said;
        let account = account.map(str::to_owned);
        let now = SystemTime::now();
        let response = StoredResponse {
            id: request.response_id.clone(),
            previous: request.previous.clone(),
            key: request.key.clone(),
            account,
            session: request.session.id().clone(),
            session_by_caller: request.session.is_by_caller(),
            model: model.id.clone(),
            route: Route::Fresh,
            thread: thread.unwrap_or_else(|| ThreadId::new("")),
            turn: TurnId::new(""),
            generation: 0,
            upstream_response_id: None,
            own_input: request.input.len(),
            input: request.input.clone(),
            output: Vec::new(),
            open_calls: step.open_calls().to_vec(),
            usage: Some(Usage::default()),
            incomplete: None,
            head: request.head.clone(),
            chain_length: step.length(),
            created_at: now,
            last_used_at: now,
            expires_at: now,
        };
        let kept = self.continuations.record(response, Arc::clone(step), request.retention).await;
        request.trace.note(|trace| trace.kept = kept);
    }
}
