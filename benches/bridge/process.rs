//! What `/proc` tells about a process.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

/// How a process was started.
#[derive(Debug)]
pub(crate) struct CommandLine {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) folder: PathBuf,
}

impl CommandLine {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let at = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        let pair = |entry: OsString| {
            let bytes = entry.as_bytes();
            let equals = bytes.iter().position(|byte| *byte == b'=')?;
            let (name, value) = (&bytes[..equals], &bytes[equals + 1..]);
            Some((OsStr::from_bytes(name).into(), OsStr::from_bytes(value).into()))
        };
        Ok(Self {
            program: std::fs::read_link(at("exe"))?,
            arguments: nul_separated(&at("cmdline"))?.into_iter().skip(1).collect(),
            environment: nul_separated(&at("environ"))?.into_iter().filter_map(pair).collect(),
            folder: std::fs::read_link(at("cwd"))?,
        })
    }

    /// The value of `--listen`.
    pub(crate) fn listen(&self) -> Option<&OsStr> {
        let at = self.arguments.iter().position(|argument| argument == "--listen")?;
        self.arguments.get(at + 1).map(OsString::as_os_str)
    }
}

/// The first child of `parent` with `argument` on its command line.
pub(crate) fn child_with(parent: u32, argument: &str) -> anyhow::Result<u32> {
    let children = children_with(parent, argument)?;
    children.first().copied().with_context(|| format!("process {parent} has no child with {argument}"))
}

/// The children of `parent` with `argument` on their command line.
pub(crate) fn children_with(parent: u32, argument: &str) -> anyhow::Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A process may be gone by now.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // Past the name, which may hold anything: state, then the parent.
        let its_parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        if its_parent != Some(parent.to_string().as_str()) {
            continue;
        }
        let arguments = nul_separated(Path::new(&format!("/proc/{pid}/cmdline"))).unwrap_or_default();
        if arguments.iter().any(|found| found == argument) {
            children.push(pid);
        }
    }
    Ok(children)
}

/// Resident memory, bytes.
pub(crate) fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = status(pid, "VmRSS:")?;
    let kilobytes = status.strip_suffix(" kB").context("no VmRSS")?;
    Ok(kilobytes.trim().parse::<u64>()? * 1024)
}

/// What its threads have had of the processors, and how long they have waited for one, together.
pub(crate) fn scheduled(pid: u32) -> anyhow::Result<(Duration, Duration)> {
    let mut sum = (Duration::ZERO, Duration::ZERO);
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // It may have ended by now.
        let Ok(schedule) = std::fs::read_to_string(thread?.path().join("schedstat")) else { continue };
        let mut spans = schedule.split_whitespace().map(|span| span.parse().map(Duration::from_nanos));
        let (Some(Ok(ran)), Some(Ok(waited))) = (spans.next(), spans.next()) else { continue };
        sum = (sum.0 + ran, sum.1 + waited);
    }
    Ok(sum)
}

/// How many threads it has.
pub(crate) fn threads(pid: u32) -> anyhow::Result<usize> {
    Ok(status(pid, "Threads:")?.parse()?)
}

#[expect(clippy::cast_precision_loss, reason = "memory here stays far below 2^52 bytes")]
pub(crate) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// A field of the process's status.
fn status(pid: u32, field: &str) -> anyhow::Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    let value = status.lines().find_map(|line| line.strip_prefix(field));
    Ok(value.with_context(|| format!("no {field}"))?.trim().to_owned())
}

fn nul_separated(file: &Path) -> anyhow::Result<Vec<OsString>> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(bytes
        .split(|byte| *byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| OsString::from_vec(part.to_vec()))
        .collect())
}
