//! What is broken, and how.

use std::collections::HashSet;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use tokio::time::{Instant, sleep};

use crate::scene::Scene;
use crate::tally::Tally;

/// A stopped app-server that was left has been found out, and replaced, by then. One that was just starting is the
/// longest there: its time to start, and the time to end.
const FOUND_BY: Duration = Duration::from_secs(40);

/// A kind of fault, by the names of `--faults`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The app-server is killed.
    Kill,
    /// It is stopped for a moment.
    Stop,
    /// It is stopped, and left for the bridge to find out.
    Leave,
    /// The socket between it and the bridge is cut.
    Cut,
    /// The bridge gets SIGHUP.
    Hup,
}

/// One planned fault.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    kind: Kind,
    /// Of a stop.
    lasts: Duration,
    /// Which of several app-servers.
    which: usize,
}

impl Fault {
    /// So many, each kind as often as the others, in random order.
    pub(crate) fn plan(count: usize, kinds: &[Kind], dice: &mut StdRng) -> Vec<Self> {
        let mut faults: Vec<Self> = (0..count)
            .filter_map(|n| kinds.get(n % kinds.len().max(1)))
            .map(|kind| Self {
                kind: *kind,
                lasts: Duration::from_millis(*[50, 300, 1500, 3000].choose(dice).unwrap_or(&300)),
                which: dice.random_range(0..64),
            })
            .collect();
        faults.shuffle(dice);
        faults
    }

    /// Breaks something, waits until it is whole again, and counts it.
    pub(crate) async fn strike(&self, scene: &Scene, tally: &Tally) -> anyhow::Result<()> {
        if self.kind == Kind::Hup {
            tally.harmless("bridge: SIGHUP");
            return send(scene.bridge_pid(), Signal::SIGHUP);
        }
        let app_server = self.app_server(scene).await.context("there is no app-server to break")?;
        let spell = tally.fault_begins(self.kind.name(), self.kind.breaks());
        let struck = match self.kind {
            Kind::Kill => send(app_server, Signal::SIGKILL),
            Kind::Stop => {
                send(app_server, Signal::SIGSTOP)?;
                sleep(self.lasts).await;
                go_on(app_server);
                Ok(())
            }
            Kind::Leave => {
                send(app_server, Signal::SIGSTOP)?;
                let until = Instant::now() + FOUND_BY;
                while scene.app_servers().contains(&app_server) && Instant::now() < until {
                    // Another fault, a stop for a moment, may have let it go on; it may be gone by now.
                    let _ = send(app_server, Signal::SIGSTOP);
                    sleep(Duration::from_millis(100)).await;
                }
                let found = !scene.app_servers().contains(&app_server);
                go_on(app_server);
                ensure!(found, "an app-server that hangs is there after {FOUND_BY:?}");
                Ok(())
            }
            Kind::Cut => cut(app_server),
            Kind::Hup => Ok(()),
        };
        tally.fault_ends(spell);
        struck
    }

    /// One that runs; another may just be starting.
    async fn app_server(&self, scene: &Scene) -> Option<u32> {
        for _ in 0..100 {
            let running = scene.app_servers();
            if !running.is_empty() {
                return Some(running[self.which % running.len()]);
            }
            sleep(Duration::from_millis(100)).await;
        }
        None
    }
}

impl Kind {
    /// Whether the app-server, or the connection to it, is gone afterwards.
    pub(crate) fn breaks(self) -> bool {
        matches!(self, Self::Kill | Self::Leave | Self::Cut)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kill => "app-server: killed",
            Self::Stop => "app-server: stopped for a moment",
            Self::Leave => "app-server: stopped",
            Self::Cut => "app-server: socket cut",
            Self::Hup => "bridge: SIGHUP",
        }
    }
}

fn send(pid: u32, signal: Signal) -> anyhow::Result<()> {
    Ok(kill(Pid::from_raw(i32::try_from(pid)?), signal)?)
}

/// Unless it has been killed meanwhile.
fn go_on(pid: u32) {
    let _ = send(pid, Signal::SIGCONT);
}

/// Shuts every connection that `server` has accepted on a unix socket, both ways, by a copy of its descriptor:
/// neither side has a say in it.
fn cut(server: u32) -> anyhow::Result<()> {
    let accepted = accepted_sockets().context("/proc/net/unix")?;
    let process = rustix::process::Pid::from_raw(i32::try_from(server)?).context("no process id")?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    for entry in std::fs::read_dir(format!("/proc/{server}/fd"))? {
        let path: PathBuf = entry?.path();
        let Ok(target) = std::fs::read_link(&path) else { continue };
        let inode =
            target.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        let (Some(inode), Some(number)) = (inode, number) else { continue };
        if accepted.contains::<u64>(&inode) {
            let copy = pidfd_getfd(process.as_fd(), number, PidfdGetfdFlags::empty())
                .context("cannot copy a descriptor of the app-server's (may this process trace it?)")?;
            // The other side may just have closed it.
            let _ = UnixStream::from(copy).shutdown(Shutdown::Both);
        }
    }
    Ok(())
}

/// Inodes of connected unix sockets with an address: the accepting sides.
fn accepted_sockets() -> std::io::Result<HashSet<u64>> {
    let table = std::fs::read_to_string("/proc/net/unix")?;
    let accepted = |line: &str| {
        // Num RefCount Protocol Flags Type St Inode Path
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, _, _, _, "0001", "03", inode, _] = fields[..] else { return None };
        inode.parse().ok()
    };
    Ok(table.lines().filter_map(accepted).collect())
}
