//! What the service manager is told (systemd; no one else listens).

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::app_server::AppServer;

/// Signs of life in each period that it waits for one.
const SIGNS: u32 = 3;

/// A call made now would be tried.
pub(super) fn ready() {
    #[cfg(target_os = "linux")]
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// On the way down.
pub(super) fn stopping() {
    #[cfg(target_os = "linux")]
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
}

/// Signs of life, as long as tasks run at all and somebody looks after the app-server: an app-server that is down
/// and started again is no reason to restart us, one that nobody starts is.
pub(super) async fn feed(app_server: AppServer, period: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(period / SIGNS);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if !app_server.is_supervised() {
            tracing::error!(
                "nobody looks after the app-server any more; the service manager is not told that all is well"
            );
            return;
        }
        #[cfg(target_os = "linux")]
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
    }
}
