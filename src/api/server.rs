//! Connections: HTTP/1.1 and cleartext HTTP/2 on every listener, their limits, and the way down. One that becomes a
//! WebSocket goes on with its place and under the same limits ([`Seat`]).

mod activity;
mod full;
mod lingering;
mod refusals;
mod room;
mod seat;
#[cfg(test)]
mod tests;
mod write_limit;

use std::convert::Infallible;
use std::fmt::Display;
use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use self::activity::{Overdue, Patience, STREAM};
use self::full::Full;
pub(crate) use self::full::refuse_if_full;
use self::lingering::Lingering;
use self::refusals::Refusals;
use self::room::{Place, Room, Ticket};
pub(crate) use self::seat::{Busy, Seat};
use self::write_limit::WriteLimit;
use crate::config::ServerConfig;
use crate::tasks::Tasks;

/// Requests at once on one HTTP/2 connection; past it, the client waits.
const MAX_STREAMS: u32 = 256;
/// Streams that an HTTP/2 client may reset before we have looked at them, and that we reset for its mistakes;
/// past either, the connection is closed.
const MAX_RESETS: usize = 64;
/// Headers of one HTTP/2 request, bytes.
const MAX_HEADERS: u32 = 64 * 1024;
/// Between attempts to accept, while the system refuses (out of descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// An HTTP/2 peer that is silent this long is asked whether it lives.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long an idle client may take to see that we close.
pub(crate) const GOODBYE: Duration = Duration::from_secs(1);
/// How long a connection beyond the limit is kept: enough to be told so.
const STANDING_TIME: Duration = Duration::from_secs(5);

/// Where a request comes from: beside it, for whoever counts failures.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Serves `router` until `shutdown` resolves; then takes no new connection, lets open ones finish within
/// `limit`, counted from there, and cuts the rest. A client that leaves drops its handler, and with it the
/// turn.
pub async fn serve(
    listeners: Vec<TcpListener>,
    router: Router,
    config: &ServerConfig,
    shutdown: impl Future<Output = ()>,
    limit: Duration,
    tasks: &Tasks,
) {
    let room = Room::new(config.max_connections);
    let closing = Closing { draining: CancellationToken::new(), cut: tasks.stop_token().child_token() };
    let patience = Patience { idle: config.header_timeout, write: config.write_timeout };
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = accept(&listeners, &room);
        // `accept` is cancel-safe: what it drops is a ticket.
        let (stream, from, ticket) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        let connection = Connection { router: router.clone(), from, patience, closing: closing.clone() };
        tasks.spawn("connection", connection.serve(stream, tasks.clone(), Arc::clone(&room), ticket));
    }
    drop(listeners);
    closing.draining.cancel();
    if tokio::time::timeout(limit, room.emptied()).await.is_err() {
        let open = room.count();
        tracing::warn!(open, "connections are still open after the drain and are cut");
        closing.cut.cancel();
    }
}

/// The next connection, once there is room for it.
async fn accept(listeners: &[TcpListener], room: &Arc<Room>) -> (TcpStream, SocketAddr, Ticket) {
    let ticket = room.ticket().await;
    loop {
        match accept_any(listeners).await {
            Ok((stream, from)) => return (stream, from, ticket),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The next connection of any of them; few, so that the first ones' advantage does not matter.
async fn accept_any(listeners: &[TcpListener]) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|cx| {
        let mut accepted = listeners.iter().map(|listener| listener.poll_accept(cx));
        accepted.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

#[derive(Debug, Clone)]
struct Closing {
    /// Finish what runs, start nothing new.
    draining: CancellationToken,
    /// At once.
    cut: CancellationToken,
}

struct Connection {
    router: Router,
    from: SocketAddr,
    patience: Patience,
    closing: Closing,
}

impl Connection {
    /// Ends with the connection; its place goes back then.
    async fn serve(self, stream: TcpStream, tasks: Tasks, room: Arc<Room>, ticket: Ticket) {
        // Events are small writes that must not wait for one another.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let place = Arc::new(room.place(ticket).await);
        let stream = WriteLimit::new(Refusals::new(Lingering::new(stream)), self.patience.write);
        let service = service_fn({
            let (activity, router, peer) = (Arc::clone(&place.activity), self.router, Peer(self.from.ip()));
            let seat = Seat::new(&place, &self.closing);
            move |mut request: Request<Incoming>| {
                let running = activity.begin();
                request.extensions_mut().insert(peer);
                if seat.is_standing() {
                    request.extensions_mut().insert(Full);
                }
                request.extensions_mut().insert(seat.clone());
                let answer = router.clone().oneshot(request.map(Body::new));
                async move { Ok::<_, Infallible>(answer.await?.map(|body| running.answer(body))) }
            }
        });
        let builder = builder(tasks, self.patience, place.seated);
        let connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
        drive(connection, &place, self.patience, &self.closing).await;
    }
}

/// What the library keeps to by itself.
fn builder(tasks: Tasks, patience: Patience, keep_alive: bool) -> auto::Builder<Spawner> {
    let mut builder = auto::Builder::new(Spawner(tasks));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(patience.idle).keep_alive(keep_alive);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS)
        .max_header_list_size(MAX_HEADERS)
        .keep_alive_interval(PING_INTERVAL);
    builder
}

/// Runs a connection to its end, or to the limit of our patience with its client.
async fn drive<C>(mut connection: Pin<&mut C>, place: &Place, mut patience: Patience, closing: &Closing)
where
    C: GracefulConnection<Error: Display>,
{
    let (mut serving, mut leaving, mut staying) = (true, false, false);
    let mut check = pin!(tokio::time::sleep(patience.idle.min(patience.write)));
    let mut told = pin!(tokio::time::sleep(STANDING_TIME));
    loop {
        // Every branch may be dropped and polled again: the connection keeps its own state.
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended early");
                }
                return;
            }
            () = closing.cut.cancelled() => return,
            () = place.leave.cancelled(), if !staying => {
                if place.activity.idle_since().is_some() {
                    return;
                }
                // Its request came at the last moment.
                staying = true;
            }
            () = &mut told, if !place.seated => return,
            () = closing.draining.cancelled(), if serving => {
                serving = false;
                // Who came just now is told that we stop, and not left without a word.
                if place.activity.has_begun() {
                    connection.as_mut().graceful_shutdown();
                }
                (leaving, patience.idle) = (true, GOODBYE);
                check.as_mut().reset(Instant::now() + GOODBYE);
            }
            () = &mut check => match place.activity.overdue(patience) {
                Ok(again) => {
                    if !serving {
                        connection.as_mut().graceful_shutdown();
                    }
                    check.as_mut().reset(again);
                }
                Err(Overdue::Request) if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                    check.as_mut().reset(Instant::now() + GOODBYE);
                }
                Err(overdue) => {
                    tracing::debug!(?overdue, "a client is no longer waited for");
                    return;
                }
            },
        }
    }
}

/// Spawns HTTP/2 streams through our own tracker. Each ends with its connection, or alone by its token: dropped,
/// it is reset.
#[derive(Clone)]
struct Spawner(Tasks);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let unread = CancellationToken::new();
        let stream = STREAM.scope(unread.clone(), future);
        self.0.spawn("stream", async move {
            tokio::select! {
                () = stream => {}
                () = unread.cancelled() => {}
            }
        });
    }
}
