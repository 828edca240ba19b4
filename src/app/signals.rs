//! The process's signals: the first asks for a drain, the second forces the end; SIGHUP asks for the keys to be read
//! again.

use std::fs::File;
use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// What signals come to.
pub(super) struct Signals<F> {
    /// Turned on by the first SIGTERM or SIGINT, and by the SIGHUP of a terminal that has gone.
    pub(super) stop: watch::Receiver<bool>,
    /// Ends at the second of these. It must be polled for any of this to work.
    pub(super) force: F,
    /// One for each other SIGHUP; those that come while one is there are that one.
    pub(super) hang_ups: mpsc::Receiver<()>,
}

/// Listens from now on.
pub(super) fn listen() -> std::io::Result<Signals<impl Future<Output = ()>>> {
    let (hung_up, hang_ups) = mpsc::channel(1);
    let mut streams = Streams {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        hang_up: signal(SignalKind::hangup())?,
        hung_up,
        had_terminal: has_terminal(),
    };
    let (stop, stopped) = watch::channel(false);
    let force = async move {
        streams.stop().await;
        // The daemon may have ended by itself: then nobody listens.
        let _ = stop.send(true);
        streams.stop().await;
    };
    Ok(Signals { stop: stopped, force, hang_ups })
}

struct Streams {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    hung_up: mpsc::Sender<()>,
    had_terminal: bool,
}

impl Streams {
    /// Waits for the next signal that is to end it.
    async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => {}
            }
            // The kernel takes the terminal away before it sends the signal.
            if self.had_terminal && !has_terminal() {
                return;
            }
            // Full: the keys are about to be read anyway.
            let _ = self.hung_up.try_send(());
        }
    }
}

/// Whether the process has a terminal that can hang up on it.
fn has_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}
