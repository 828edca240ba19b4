//! What `/proc` tells about a process.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

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

/// The one child of `parent` with `argument` on its command line.
pub(crate) fn child_with(parent: u32, argument: &str) -> anyhow::Result<u32> {
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
            return Ok(pid);
        }
    }
    bail!("process {parent} has no child with {argument}")
}

/// Resident memory, bytes.
pub(crate) fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .context("no VmRSS")?;
    Ok(kilobytes.trim().parse::<u64>()? * 1024)
}

fn nul_separated(file: &Path) -> anyhow::Result<Vec<OsString>> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(bytes
        .split(|byte| *byte == 0)
        .filter(|part| !part.is_empty())
        .map(|part| OsString::from_vec(part.to_vec()))
        .collect())
}
