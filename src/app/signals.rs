//! The process's signals: the first asks for a drain, the second forces the end.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// A switch that the first SIGTERM, SIGINT or SIGHUP turns on, and a future that ends at the second. The
/// future must be polled for either to work.
pub(super) fn listen() -> std::io::Result<(watch::Receiver<bool>, impl Future<Output = ()>)> {
    let mut signals = Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        hang_up: signal(SignalKind::hangup())?,
    };
    let (stop, stopped) = watch::channel(false);
    let force = async move {
        signals.next().await;
        // The daemon may have ended by itself: then nobody listens.
        let _ = stop.send(true);
        signals.next().await;
    };
    Ok((stopped, force))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
