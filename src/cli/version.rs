//! `codex-bridge --version`.

use std::process::ExitCode;

use super::flags::Flags;
use crate::app::{self, Codex};
use crate::config::Profile;

pub(super) fn run() -> anyhow::Result<ExitCode> {
    // A wrong configuration must not keep the version from being told.
    let codex = match Flags::default().load(Profile::Serve) {
        Ok(loaded) => super::runtime()?.block_on(app::codex(loaded.config)),
        Err(_) => None,
    };
    super::say(&line(codex.as_ref()))?;
    Ok(ExitCode::SUCCESS)
}

fn line(codex: Option<&Codex>) -> String {
    let ours = env!("CARGO_PKG_VERSION");
    match codex {
        Some(Codex { path, version }) => {
            format!("codex-bridge {ours} (codex-cli {version} at {})", path.display())
        }
        None => format!("codex-bridge {ours} (codex not found)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codex_found_is_part_of_the_line() {
        let codex = Codex { path: "/opt/codex".into(), version: semver::Version::new(0, 169, 0) };
        let ours = env!("CARGO_PKG_VERSION");
        assert_eq!(line(Some(&codex)), format!("codex-bridge {ours} (codex-cli 0.169.0 at /opt/codex)"));
        assert_eq!(line(None), format!("codex-bridge {ours} (codex not found)"));
    }
}
