//! Processes of ours that end with us: each has a group of its own, which is killed when nobody holds it any more, and,
//! on Linux, is killed by the system when we are.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitStatus;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::runtime::Handle;

use super::lasting;

/// The hidden subcommand that calls [`become_tethered`]: `tether PARENT PROGRAM [ARGUMENT]...`.
pub(crate) const TETHER: &str = "tether";

/// A running process. Dropped, it is killed with its group.
#[derive(Debug)]
pub(crate) struct Tethered {
    process: Child,
    group: Pid,
}

/// What runs `program`: `ours`, our own program, on the way to becoming it; itself where that is not known.
pub(crate) fn command(program: &Path, ours: Option<&Path>) -> Command {
    let Some(ours) = ours.filter(|_| cfg!(target_os = "linux")) else { return Command::new(program) };
    let mut command = Command::new(ours);
    command.arg(TETHER).arg(std::process::id().to_string()).arg(program);
    command
}

impl Tethered {
    /// Starts a [`command`]. What is tied to us is tied to the thread that starts it: one that lasts.
    pub(crate) fn spawn(mut command: Command) -> io::Result<Self> {
        command.process_group(0).kill_on_drop(true);
        let runtime = Handle::current();
        let process = lasting(move || {
            let _entered = runtime.enter();
            command.spawn()
        })
        .unwrap_or_else(|| Err(io::Error::other("the thread that starts it is gone")))?;
        let pid = process.id().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| io::Error::other("it has no process id"))?;
        Ok(Self { process, group: Pid::from_raw(pid) })
    }

    /// Its process id, which is its group's too.
    pub(crate) fn pid(&self) -> u32 {
        self.group.as_raw().unsigned_abs()
    }

    pub(crate) fn stdin(&mut self) -> Option<ChildStdin> {
        self.process.stdin.take()
    }

    pub(crate) fn stdout(&mut self) -> Option<ChildStdout> {
        self.process.stdout.take()
    }

    pub(crate) fn stderr(&mut self) -> Option<ChildStderr> {
        self.process.stderr.take()
    }

    /// Whether it has been waited for.
    pub(crate) fn has_ended(&self) -> bool {
        self.process.id().is_none()
    }

    /// Waits for its end. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }

    /// Waits for its end; gives what it wrote to its standard output, no more than `most` bytes. Dropped, it is killed.
    pub(crate) async fn output(mut self, most: u64) -> io::Result<(ExitStatus, Vec<u8>)> {
        let mut output = Vec::new();
        if let Some(stdout) = self.stdout() {
            stdout.take(most).read_to_end(&mut output).await?;
        }
        Ok((self.ended().await?, output))
    }

    /// The group's id cannot be another's: it is taken as long as the leader is not waited for or a member
    /// lives, and a reused one would need the whole pid range to have gone round since.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = killpg(self.group, signal);
    }
}

impl Drop for Tethered {
    fn drop(&mut self) {
        // The leader may be gone and its helpers not.
        self.signal(Signal::SIGKILL);
    }
}

/// Becomes `program`, killed as soon as the process `parent`, which started us, is gone: also where that
/// was killed itself and could end nothing. Comes back only if it fails.
pub fn become_tethered(parent: u32, program: &Path, arguments: &[OsString]) -> io::Error {
    #[cfg(target_os = "linux")]
    {
        if let Err(error) = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL) {
            return error.into();
        }
        // It may have gone before that.
        if nix::unistd::getppid().as_raw().unsigned_abs() != parent {
            return io::Error::other("the bridge that started it is gone");
        }
    }
    std::process::Command::new(program).args(arguments).exec()
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;
    use std::time::Duration;

    use super::*;

    fn shell(script: &str) -> Tethered {
        let mut command = command(Path::new("/bin/sh"), None);
        command.arg("-c").arg(script).stdin(Stdio::null()).stdout(Stdio::piped());
        Tethered::spawn(command).unwrap()
    }

    #[tokio::test]
    async fn what_it_prints_is_given_within_the_bound() {
        let (status, output) = shell("printf 0123456789; exit 3").output(4).await.unwrap();
        assert_eq!((status.code(), output.as_slice()), (Some(3), &b"0123"[..]));
    }

    /// Its helper holds the pipe open for as long as it lives.
    #[tokio::test]
    async fn one_that_nobody_waits_for_any_more_is_killed_with_its_helpers() {
        let mut process = shell("echo up; sleep 1000 & wait");
        let mut stdout = process.stdout().unwrap();
        let mut up = [0; 3];
        stdout.read_exact(&mut up).await.unwrap();
        let waited = tokio::time::timeout(Duration::from_millis(10), process.output(1)).await;
        assert!(waited.is_err());
        let closed = tokio::time::timeout(Duration::from_secs(10), stdout.read(&mut up)).await;
        assert_eq!(closed.expect("it is gone").unwrap(), 0);
    }
}
