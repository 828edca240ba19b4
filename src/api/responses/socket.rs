//! `GET /v1/responses` as a WebSocket: each `response.create` of the client's is a request of its own, under the same
//! rules as a POST, and its events come back one a message.

mod handshake;
mod lanes;
mod message;
mod metered;
mod passing;
mod reply;
mod session;
mod unstored;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use axum::extract::{Request, State};
use axum::response::Response;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use hyper_util::rt::TokioIo;
use schemars::JsonSchema;
use serde::Serialize;

use self::metered::Metered;
use self::reply::Context;
use self::session::Session;
use self::unstored::Unstored;
use crate::api::access::Access;
use crate::api::dry_run;
use crate::api::edge::Edge;
use crate::api::error::ApiError;
use crate::api::max_wait::MaxWait;
use crate::api::observe::{Call, internal};
use crate::api::server::Seat;
use crate::config::SocketConfig;
use crate::tasks::Tasks;

/// All sockets of the daemon. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Sockets {
    config: SocketConfig,
    counts: Arc<Counts>,
    tasks: Tasks,
}

#[derive(Debug, Default)]
struct Counts {
    open: AtomicUsize,
    /// Requests that came over them.
    requests: AtomicU64,
}

/// For `/v1/health`.
#[derive(Debug, Default, JsonSchema, Serialize)]
pub(crate) struct SocketHealth {
    open: usize,
    requests: u64,
}

/// One that is open. Ends by drop.
struct Open(Arc<Counts>);

impl Sockets {
    pub(crate) fn new(config: &SocketConfig, tasks: &Tasks) -> Self {
        Self { config: config.clone(), counts: Arc::default(), tasks: tasks.clone() }
    }

    pub(crate) fn health(&self) -> SocketHealth {
        SocketHealth {
            open: self.counts.open.load(Ordering::Relaxed),
            requests: self.counts.requests.load(Ordering::Relaxed),
        }
    }

    fn open(&self) -> Open {
        self.counts.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(&self.counts))
    }
}

impl Open {
    fn count_request(&self) {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What says whose requests they are; never shown.
fn authorization(head: &HeaderMap) -> HeaderMap {
    let given = head.get(AUTHORIZATION).cloned().map(|mut value| {
        value.set_sensitive(true);
        (AUTHORIZATION, value)
    });
    given.into_iter().collect()
}

/// Becomes a socket. A request that does not ask for one is told how to.
pub(crate) async fn connect(
    State(edge): State<Edge>,
    call: Call,
    access: Access,
    MaxWait(max_wait): MaxWait,
    dry: dry_run::Wanted,
    mut request: Request,
) -> Result<Response, ApiError> {
    let Some(response) = handshake::accept(request.headers()) else {
        return std::future::ready(Ok(handshake::refusal())).await;
    };
    if dry != dry_run::Wanted::Nothing {
        let message = "A socket has no dry runs: send the request to POST /v1/responses.";
        return Err(ApiError::unsupported("dry_run", message));
    }
    let seat = request.extensions_mut().remove::<Seat>();
    let seat = seat.ok_or_else(|| internal("The connection cannot become a socket."))?;
    let upgraded = hyper::upgrade::on(&mut request);
    let context = Arc::new(Context {
        unstored: Unstored::new(edge.bridge.clone()),
        call,
        authorization: authorization(request.headers()),
        priority: access.asked,
        max_wait,
        edge: edge.clone(),
    });
    let sockets = edge.sockets.clone();
    let talk = async move {
        // Fails where the client has left before it was told.
        let Ok(upgraded) = upgraded.await else { return };
        let open = sockets.open();
        let stream = Metered::new(TokioIo::new(upgraded), context.edge.intake.clone(), context.call.key());
        Session::new(context, stream, sockets.config, seat, open).await.talk().await;
    };
    edge.sockets.tasks.spawn("socket", talk);
    Ok(response)
}
