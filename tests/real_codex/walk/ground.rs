//! What a walk is taken on: a daemon with its own app-server, or with one that the walk runs, behind a socket that
//! it can cut.

use std::path::{Path, PathBuf};
use std::time::Duration;

use codex_bridge::config::{ContinuationConfig, Endpoint};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use crate::connect::Foreign;
use crate::http::until;
use crate::world::{On, World};

/// Few, so that they are evicted all the time.
pub(super) const WARM_THREADS: usize = 3;

/// Little is kept, so that what is evicted and what is forked comes up all the time.
fn small(config: &mut ContinuationConfig) {
    (config.warm_threads, config.template_tokens) = (WARM_THREADS, 100);
    // The walk lets records expire in the store alone, behind the bridge's back: it must be asked, however busy the
    // machine is.
    config.store_timeout = Duration::from_secs(60);
}

pub(super) struct Ground {
    pub(super) world: World,
    foreign: Option<Behind>,
}

/// Somebody else's app-server.
struct Behind {
    child: Foreign,
    listen: String,
    settings: Vec<String>,
    wire: Wire,
}

/// A socket between a bridge and its app-server.
struct Wire {
    /// Ends the connections of now.
    cut: std::sync::Arc<std::sync::Mutex<CancellationToken>>,
}

impl Ground {
    pub(super) async fn supervised(face: On) -> Self {
        let world = World::configured(face, |config, _| small(&mut config.continuation)).await;
        Self { world, foreign: None }
    }

    /// With the lean catalogue, which nothing of Codex's own words gets past.
    pub(super) async fn connected() -> Self {
        let supervised = World::start(On::Plain).await;
        supervised.models().await;
        let catalogue = std::fs::read(supervised.place.state().join("codex-home/catalogue-0.json"));
        let catalogue = catalogue.expect("a lean catalogue");
        supervised.end().await;
        let mut paths = None;
        let world = World::unconnected(On::Plain, |config, place| {
            let path = |name: &str| place.temp.path().join(name);
            let (near, far, lean) = (path("near.sock"), path("far.sock"), path("lean.json"));
            std::fs::write(&lean, catalogue).expect("a catalogue");
            small(&mut config.continuation);
            config.app_server.connect = Some(Endpoint::Unix(near.clone()));
            paths = Some((near, far, lean));
        })
        .await;
        let (near, far, lean) = paths.expect("it was set up");
        let (listen, settings) =
            (format!("unix://{}", far.display()), vec![format!("model_catalog_json=\"{}\"", lean.display())]);
        let child = Foreign::start(&world.standin, &world.place, &listen, None, &settings).await;
        let wire = Wire::lay(&world, &near, far);
        let ground = Self { world, foreign: Some(Behind { child, listen, settings, wire }) };
        ground.until_ready(0).await;
        ground
    }

    pub(super) async fn kill_app_server(&mut self) {
        self.until_ready(0).await;
        let before = self.world.bridge.health().await.app_server;
        if let Some(Behind { child, listen, settings, .. }) = &mut self.foreign {
            child.kill().await;
            *child = Foreign::start(&self.world.standin, &self.world.place, listen, None, settings).await;
        } else {
            let pid = i32::try_from(before.pid.expect("a child")).expect("a pid");
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it is killed");
        }
        self.until_ready(before.generation).await;
    }

    /// Where there is one to drop without its app-server; elsewhere that goes with it.
    pub(super) async fn drop_socket(&mut self) {
        self.until_ready(0).await;
        let before = self.world.bridge.health().await.app_server.generation;
        let Some(behind) = &self.foreign else { return self.kill_app_server().await };
        behind.wire.cut();
        self.until_ready(before).await;
    }

    /// Waits for a connection after that of `generation`.
    async fn until_ready(&self, generation: u64) {
        until("it is connected", async || {
            let health = self.world.bridge.health().await;
            (health.ready && health.app_server.generation > generation).then_some(())
        })
        .await;
    }

    pub(super) async fn end(self) {
        if let Some(behind) = self.foreign {
            behind.child.stop().await;
        }
        self.world.end().await;
    }
}

impl Wire {
    /// From `near`, where it listens, to `far`.
    fn lay(world: &World, near: &Path, far: PathBuf) -> Self {
        let listener = UnixListener::bind(near).expect("a socket");
        let cut = std::sync::Arc::new(std::sync::Mutex::new(CancellationToken::new()));
        let (shared, tasks) = (std::sync::Arc::clone(&cut), world.tasks.clone());
        world.tasks.spawn("wire", async move {
            let stop = tasks.stop_token().clone();
            while let Some(Ok((mut ours, _))) = stop.run_until_cancelled(listener.accept()).await {
                // One that is not answered is closed, as if nobody listened.
                let Ok(mut theirs) = UnixStream::connect(&far).await else { continue };
                let (cut, stop) = (shared.lock().expect("no panic").clone(), stop.clone());
                tasks.spawn("wire's end", async move {
                    tokio::select! {
                        () = cut.cancelled() => {}
                        () = stop.cancelled() => {}
                        _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs) => {}
                    }
                });
            }
        });
        Self { cut }
    }

    fn cut(&self) {
        std::mem::replace(&mut *self.cut.lock().expect("no panic"), CancellationToken::new()).cancel();
    }
}
