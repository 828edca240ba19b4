//! Accepts connections, each a task; the encrypted and the plain on one port.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::engine::Engine;

/// Connections at once; past it nothing is accepted until one closes.
const MAX_CONNECTIONS: usize = 4096;
/// A peer must have said its first byte, and shaken hands, by then.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait after `accept` failed (out of file descriptors, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What answers.
#[derive(Clone)]
pub(crate) struct Served {
    /// What a plain connection reaches.
    pub(crate) plain: Router,
    /// What an encrypted connection reaches, where there is encryption.
    pub(crate) encrypted: Option<(TlsAcceptor, Router)>,
}

/// Accepts until the engine's token is cancelled; that ends every connection too.
pub(crate) async fn accept(listener: TcpListener, served: Served, engine: Arc<Engine>) {
    let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Both branches are cancel-safe: a socket is accepted whole or not at all.
        let accepted = tokio::select! {
            () = engine.stop.cancelled() => return,
            accepted = next(&listener, &connections) => accepted,
        };
        let Some((socket, slot)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (served, engine) = (served.clone(), Arc::clone(&engine));
        let tasks = engine.tasks.clone();
        tasks.spawn("stand-in connection", async move {
            tokio::select! {
                () = engine.stop.cancelled() => {}
                () = connection(socket, served, &engine) => {}
            }
            drop(slot);
        });
    }
}

async fn next(
    listener: &TcpListener,
    connections: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(connections).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((socket, _)) => Some((socket, slot)),
        Err(error) => {
            tracing::warn!(%error, "the stand-in could not accept a connection");
            None
        }
    }
}

async fn connection(socket: TcpStream, served: Served, engine: &Engine) {
    // One event is one small write; it should leave at once.
    let _ = socket.set_nodelay(true);
    let Served { plain, encrypted } = served;
    let Some((acceptor, router)) = encrypted else { return serve(socket, plain).await };
    let mut first = [0_u8; 1];
    let peeked = tokio::time::timeout(HANDSHAKE_TIMEOUT, socket.peek(&mut first)).await;
    match (peeked, first) {
        (Ok(Ok(1)), [TLS_HANDSHAKE]) => {
            engine.travel().await;
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await {
                Ok(Ok(socket)) => serve(socket, router).await,
                Ok(Err(error)) => tracing::debug!(%error, "no TLS handshake with the stand-in"),
                Err(_) => tracing::debug!("no TLS handshake with the stand-in in time"),
            }
        }
        (Ok(Ok(1)), _) => serve(socket, plain).await,
        _ => {}
    }
}

/// The first byte of every TLS connection: a record of type handshake.
const TLS_HANDSHAKE: u8 = 22;

async fn serve(socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let service = TowerToHyperService::new(router);
    let server = auto::Builder::new(TokioExecutor::new());
    // A peer that is gone, or a stream cut as asked, is no news.
    let _ = server.serve_connection_with_upgrades(TokioIo::new(socket), service).await;
}
