//! Connections: HTTP/1.1 and cleartext HTTP/2 on one listener, and the way down.

mod lingering;
mod refusals;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use self::lingering::Lingering;
use self::refusals::Refusals;
use crate::config::ServerConfig;
use crate::tasks::Tasks;

/// Connections held at once; past it, new ones wait in the system's own bounded backlog.
const MAX_CONNECTIONS: u32 = 4096;
/// Requests at once on one HTTP/2 connection; past it, the client waits.
const MAX_STREAMS: u32 = 256;
/// Between attempts to accept, while the system refuses (out of descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// An HTTP/2 peer that is silent this long is asked whether it lives.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Serves `router` until `shutdown` resolves; then takes no new connection, lets open ones finish within
/// `limit`, counted from there, and cuts the rest. A client that leaves drops its handler, and with it the
/// turn.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    config: &ServerConfig,
    shutdown: impl Future<Output = ()>,
    limit: Duration,
    tasks: &Tasks,
) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS as usize));
    let closing = Closing { draining: CancellationToken::new(), cut: tasks.stop_token().child_token() };
    let header_timeout = config.header_timeout;
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = accept(&listener, &connections);
        // `accept` is cancel-safe: what it drops is a permit, or a connection that no one will serve.
        let (stream, permit) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        let connection = Connection { router: router.clone(), header_timeout, closing: closing.clone() };
        tasks.spawn("connection", connection.serve(stream, tasks.clone(), permit));
    }
    drop(listener);
    closing.draining.cancel();
    let all_closed = connections.acquire_many(MAX_CONNECTIONS);
    if tokio::time::timeout(limit, all_closed).await.is_err() {
        let open = MAX_CONNECTIONS as usize - connections.available_permits();
        tracing::warn!(open, "connections are still open after the drain and are cut");
        closing.cut.cancel();
    }
}

/// The next connection, once there is room for it.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { std::future::pending().await };
        match listener.accept().await {
            Ok((stream, _)) => return (stream, permit),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[derive(Clone)]
struct Closing {
    /// Finish what runs, start nothing new.
    draining: CancellationToken,
    /// At once.
    cut: CancellationToken,
}

struct Connection {
    router: Router,
    header_timeout: Duration,
    closing: Closing,
}

impl Connection {
    /// Ends with the connection; the permit goes back then.
    async fn serve(self, stream: TcpStream, tasks: Tasks, _permit: OwnedSemaphorePermit) {
        // Events are small writes that must not wait for one another.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY could not be set");
        }
        let asked = Arc::new(AtomicBool::new(false));
        let service = service_fn({
            let asked = Arc::clone(&asked);
            move |request: Request<Incoming>| {
                asked.store(true, Ordering::Relaxed);
                self.router.clone().oneshot(request.map(Body::new))
            }
        });
        let mut builder = auto::Builder::new(Spawner(tasks));
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.header_timeout);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(PING_INTERVAL);
        let stream = TokioIo::new(Refusals::new(Lingering::new(stream)));
        let mut connection = pin!(builder.serve_connection(stream, service));
        // The library's own limit starts once it knows the protocol; a client that says nothing at all, or
        // half a preface, is ours to send away.
        let mut first_request = pin!(tokio::time::sleep(self.header_timeout));
        let mut waiting = true;
        let mut serving = true;
        loop {
            // Every branch may be dropped and polled again: the connection keeps its own state.
            tokio::select! {
                ended = &mut connection => {
                    if let Err(error) = ended {
                        tracing::debug!(error = %error, "a connection ended early");
                    }
                    return;
                }
                () = self.closing.cut.cancelled() => return,
                () = self.closing.draining.cancelled(), if serving => {
                    serving = false;
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut first_request, if waiting => {
                    waiting = false;
                    if !asked.load(Ordering::Relaxed) {
                        return;
                    }
                }
            }
        }
    }
}

/// Spawns HTTP/2 streams through our own tracker. Each ends with its connection.
#[derive(Clone)]
struct Spawner(Tasks);

impl<F> hyper::rt::Executor<F> for Spawner
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("stream", future);
    }
}
