//! What a call would come to, found without taking anything: no slot, no thread, no turn. Every step is the one
//! that a real call takes, looking where that one takes.

use std::sync::Arc;
use std::time::Duration;

use super::affinity::Trail;
use super::continuations::Step;
use super::health::SlotHealth;
use super::held::Claim;
use super::start::{self, Plan, turn_options};
use super::templates::{self, Prefix, Template, UNMADE};
use super::threads::{Owner, Shape, Wanted};
use super::tools::{self, Settings};
use super::{Bridge, BridgeError, Inner, Referred, counted, failure};
use crate::app_server::Unsent;
use crate::model::{Item, ModelInfo, Rebuilt, Route, SessionIdentity, TurnRequest};

/// What would be done.
#[derive(Debug, Clone)]
pub struct DryRun {
    /// The model that would answer.
    pub model: ModelInfo,
    /// The session it belongs to.
    pub session: SessionIdentity,
    /// Where it would run, as things are now.
    pub route: Route,
    /// Why no thread that is there does, where one was looked for.
    pub rebuilt_because: Option<Rebuilt>,
    /// Responses in the chain, this one included.
    pub chain_length: u32,
    /// Items of the conversation, what is said by this request included.
    pub chain_items: usize,
    /// Tokens of the input, by the tokenizer.
    pub input_tokens: u64,
    /// What would start a thread; `None` where one is there.
    pub thread: Option<Unsent>,
    /// The items that would be injected.
    pub items: Vec<Item>,
    /// Bytes of their JSON, as a list.
    pub item_bytes: usize,
    /// Outputs that the waiting turn would be given.
    pub tool_outputs: usize,
    /// What would start the turn; `None` where one waits.
    pub turn: Option<Unsent>,
    /// Longest time from dispatch to the end.
    pub deadline: Duration,
    /// Slots and queue, as they are now.
    pub slots: SlotHealth,
    /// No call is taken any more.
    pub draining: bool,
}

/// Where a call would run, and what it would be given there.
struct Place {
    route: Route,
    because: Option<Rebuilt>,
    thread: Option<Unsent>,
    items: Vec<Item>,
    tool_outputs: usize,
}

/// Dry runs at once; one more is refused. They take no slot, and counting a long conversation takes a while.
pub(super) const AT_ONCE: usize = 4;
/// How long a count waits for one of them to end: it is asked for as if it cost nothing.
const PLACE_WAIT: Duration = Duration::from_secs(30);
/// When one that was refused may try again.
const RETRY: Duration = Duration::from_secs(1);

impl Bridge {
    /// What would become of the request. Fails where a real call would be refused, but for want of a slot.
    pub async fn dry_run(&self, mut request: TurnRequest) -> Result<DryRun, BridgeError> {
        let inner = &self.0;
        let place = Arc::clone(&inner.dry_runs).try_acquire_owned();
        let place = place.map_err(|_| BridgeError::Busy { retry_after: RETRY })?;
        let asked = self.asked_by(request.key.clone());
        let model = asked.resolve_model(request.model.as_deref()).await?;
        let account = asked.account().await?;
        inner.upstream.would_pass(inner.app_server.rate_limits().as_ref(), &request.input)?;
        inner.breaker.would_admit()?;
        let Referred { previous, .. } = self.refer(&mut request, &model, account.clone()).await?;
        // Where there is none, a real call would wait for one, and fail as this does.
        inner.app_server.connection().await.map_err(failure::of_request)?;
        let other_account = previous.as_ref().is_some_and(|found| found.other_account);
        let previous = previous.map(|found| found.step);
        let plan = Plan { request, model, account, previous, other_account, rerun: false };
        let bridge = self.clone();
        let work = move || {
            // Whoever leaves gives its place back only when the work is done.
            let _place = place;
            bridge.told(plan)
        };
        // Of a large body this takes seconds.
        let told = inner.tasks.blocking(work).await;
        told.unwrap_or_else(|| Err(broke_off()))
    }

    /// Tokens of the request's input, with what it goes on with, by the tokenizer. What the account has left and how the
    /// backend is does not matter, nor does the app-server, but for what it alone can refuse.
    pub async fn count_tokens(&self, mut request: TurnRequest) -> Result<u64, BridgeError> {
        let inner = &self.0;
        let waiting = tokio::time::timeout(PLACE_WAIT, Arc::clone(&inner.dry_runs).acquire_owned()).await;
        let Ok(Ok(place)) = waiting else { return Err(BridgeError::Busy { retry_after: RETRY }) };
        let account = match self.resolve_model(request.model.as_deref()).await {
            Ok(_) => self.account().await.ok().flatten(),
            Err(error @ BridgeError::ModelNotFound { .. }) => return Err(error),
            Err(_) => None,
        };
        let (_, previous) = inner.prepare(&mut request, account).await?;
        let said = previous.map(|found| found.step.transcript()).unwrap_or_default();
        let work = move || {
            let _place = place;
            counted::usage(&request, &said, &[]).input_tokens
        };
        inner.tasks.blocking(work).await.ok_or_else(broke_off)
    }

    /// What the plan comes to. Blocking: it looks at every word.
    fn told(&self, plan: Plan) -> Result<DryRun, BridgeError> {
        let inner = &self.0;
        let place = inner.place(&inner.app_server.current(), &plan)?;
        let Plan { request, model, previous, .. } = plan;
        let said = previous.as_ref().map(Step::transcript).unwrap_or_default();
        let turn = (place.route != Route::Held).then(|| turn_options(&request).start_request());
        Ok(DryRun {
            item_bytes: serde_json::to_vec(&place.items).map_or(0, |json| json.len()),
            model,
            route: place.route,
            rebuilt_because: place.because,
            chain_length: previous.as_ref().map_or(1, |step| step.length().saturating_add(1)),
            chain_items: said.len() + request.input.len(),
            input_tokens: counted::usage(&request, &said, &[]).input_tokens,
            thread: place.thread,
            items: place.items,
            tool_outputs: place.tool_outputs,
            turn,
            deadline: request.time_limit(inner.turn.deadline),
            slots: inner.slots.health(),
            draining: self.is_draining(),
            session: request.session,
        })
    }
}

fn broke_off() -> BridgeError {
    let message = "The dry run broke off.".to_owned();
    BridgeError::Upstream { message, status: None, code: "internal_error" }
}

impl Inner {
    /// In the order of [`Inner::start`].
    fn place(&self, current: &[u64], plan: &Plan) -> Result<Place, BridgeError> {
        let request = &plan.request;
        let settings = Settings::of(request, &plan.model.id);
        let owner = Owner::of(request, plan.account.as_deref());
        let claim = Claim { request, settings: &settings, owner: &owner, current };
        let demanded = |mut items: Vec<Item>| {
            items.extend(tools::demand(request));
            items
        };
        let mut because = match self.held.would_claim(claim, plan.previous.as_ref()) {
            Ok((answers, tool_outputs)) => {
                let items = demanded(answers.extras);
                let route = Route::Held;
                return Ok(Place { route, because: None, thread: None, items, tool_outputs });
            }
            Err(reason) => reason,
        };
        match self.would_start_warm(current, plan, &owner) {
            Ok(said) => {
                let items = demanded(tools::upstream_items(&request.input[said..]));
                let route = Route::Live;
                return Ok(Place { route, because: None, thread: None, items, tool_outputs: 0 });
            }
            Err(reason) => because = because.or(reason),
        }
        let template = self.would_template(plan);
        let said = plan.previous.as_ref().map(Step::transcript).unwrap_or_default();
        let instructions = start::instructions(request);
        let whole = start::whole(instructions.as_ref(), &said, &request.input);
        let templated = template.as_ref().map_or(0, |template| template.items);
        let items = demanded(tools::upstream_items(whole.skip(templated)));
        self.check_foreign_window(&items, &plan.model)?;
        let options = self.thread_options(&Shape::of(request, &plan.model.id));
        let mut thread = options.start_request(template.as_ref().map(|template| &template.thread));
        if let (Some(UNMADE), Some(params)) =
            (template.as_ref().map(|template| template.thread.as_str()), thread.params.as_object_mut())
        {
            params.shift_remove("threadId");
        }
        let (route, because) = match template {
            Some(_) => (Route::Template, None),
            None => (plan.fresh_route(), because),
        };
        Ok(Place { route, because, thread: Some(thread), items, tool_outputs: 0 })
    }

    /// How much of the input the warm thread has said that would be taken; else why there is none.
    fn would_start_warm(
        &self,
        current: &[u64],
        plan: &Plan,
        owner: &Owner,
    ) -> Result<usize, Option<Rebuilt>> {
        let request = &plan.request;
        let shape = Shape::of(request, &plan.model.id);
        let raw = !templates::tells_all(request);
        let wanted = Wanted { shape: &shape, raw, current };
        let compacted = request.input.iter().rposition(Item::is_compaction);
        match &request.previous {
            Some(_) if plan.other_account => Err(Some(Rebuilt::OtherAccount)),
            Some(_) if compacted.is_some() => Err(Some(Rebuilt::Compacted)),
            Some(tip) => {
                self.threads.would_take_warm(tip, owner, request.instructions.as_deref(), &wanted)?;
                Ok(0)
            }
            None if !self.affinity => Err(None),
            None => {
                let instructions = start::instructions(request);
                let trail = Trail::of(instructions.iter().chain(&request.input));
                let said = self.threads.would_take_said(&trail, owner, &wanted).ok_or(None)?;
                let said = said.saturating_sub(usize::from(instructions.is_some()));
                if compacted.is_some_and(|at| at >= said) { Err(None) } else { Ok(said) }
            }
        }
    }

    /// The template that would be forked; one that is still to be made has no id.
    fn would_template(&self, plan: &Plan) -> Option<Template> {
        let Prefix { key, items } = self.templates.prefix(plan).filter(|_| self.app_server.can_fork())?;
        let thread = self.templates.would_use(key)?;
        Some(Template { thread, items: items.len() })
    }
}
