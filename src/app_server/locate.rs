//! Finds the codex binary and checks that it is new enough.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use semver::Version;

use super::SetupError;
use crate::config::{AppServerConfig, Machine};
use crate::tasks::tether::{self, Tethered};

/// The oldest codex whose app-server protocol is spoken here.
pub const MINIMUM_VERSION: Version = Version::new(0, 169, 0);

/// `codex --version` must have answered by then. A cold disk can take seconds for the 200 MB binary.
const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// It prints a line; more than this is no version.
const LARGEST: u64 = 64 * 1024;

/// Where codex may be; the first that is set wins, PATH and the project's own install only if it is there.
#[derive(Debug, Clone, Default)]
pub struct LocateInputs {
    /// By flag, `CODEX_BIN` or configuration.
    pub configured: Option<PathBuf>,
    /// `PATH`.
    pub path: Option<OsString>,
    /// The folder of the project's own install: the one that holds `node_modules`.
    pub project_install: Option<PathBuf>,
    /// Our own program, by which whatever is asked for its version is tied to our life.
    pub program: Option<PathBuf>,
}

impl LocateInputs {
    /// What a bridge with this configuration looks at, on this machine.
    pub fn new(config: &AppServerConfig, machine: &Machine) -> Self {
        Self {
            configured: config.codex_bin.clone(),
            path: machine.path.clone(),
            project_install: machine.project_install.clone(),
            program: machine.program.clone(),
        }
    }
}

/// A codex that will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Codex {
    /// The native binary (a wrapper only where none was found behind it).
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
}

/// The command that installs or updates codex.
pub fn install_command() -> String {
    format!("npm install -g @openai/codex@{MINIMUM_VERSION}")
}

/// Finds the binary and asks for its version.
pub async fn locate(inputs: &LocateInputs) -> Result<Codex, SetupError> {
    let path = find(inputs)?;
    let version = version_of(&path, inputs.program.as_deref()).await?;
    if version < MINIMUM_VERSION {
        return Err(SetupError::CodexTooOld {
            path,
            found: version.to_string(),
            wanted: MINIMUM_VERSION.to_string(),
            mend: install_command(),
        });
    }
    Ok(Codex { path, version })
}

/// The binary, without running it.
pub(crate) fn find(inputs: &LocateInputs) -> Result<PathBuf, SetupError> {
    // What somebody named is used or refused, never passed over in silence.
    if let Some(path) = &inputs.configured {
        return if is_executable(path) {
            Ok(native(path))
        } else {
            Err(not_found(&format!("the configured codex_bin, {}", path.display())))
        };
    }
    let on_path = inputs.path.iter().flat_map(std::env::split_paths).map(|dir| dir.join("codex"));
    if let Some(path) = on_path.filter(|path| path.is_absolute()).find(|path| is_executable(path)) {
        return Ok(native(&path));
    }
    if let Some(project) = &inputs.project_install {
        let package = project.join("node_modules/@openai/codex");
        if let Some(path) = native_of_package(&package) {
            return Ok(path);
        }
        return Err(not_found(&format!("PATH and {}", project.display())));
    }
    Err(not_found("PATH"))
}

async fn version_of(path: &Path, program: Option<&Path>) -> Result<Version, SetupError> {
    let unusable =
        |reason: String| SetupError::CodexUnusable { path: path.to_owned(), reason, mend: install_command() };
    let mut command = tether::command(path, program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let run = async { Tethered::spawn(command)?.output(LARGEST).await };
    let (status, output) = tokio::time::timeout(VERSION_LIMIT, run)
        .await
        .map_err(|_| unusable(format!("`--version` took longer than {VERSION_LIMIT:?}")))?
        .map_err(|error| unusable(error.to_string()))?;
    if !status.success() {
        return Err(unusable(format!("`--version` ended with {status}")));
    }
    parse_version(&String::from_utf8_lossy(&output))
        .ok_or_else(|| unusable("`--version` does not name a codex version".into()))
}

/// `codex-cli 0.169.0`, perhaps among other lines.
fn parse_version(text: &str) -> Option<Version> {
    text.lines().find_map(|line| Version::parse(line.trim().strip_prefix("codex-cli ")?.trim()).ok())
}

/// npm's `codex` is a Node wrapper: the native binary behind it, so that signals and memory are its own.
fn native(path: &Path) -> PathBuf {
    let Ok(real) = path.canonicalize() else { return path.to_owned() };
    if !is_script(&real) {
        return real;
    }
    // …/@openai/codex/bin/codex.js
    real.ancestors().nth(2).and_then(native_of_package).unwrap_or(real)
}

/// The native binary of an `@openai/codex` package: below its platform package, which npm puts inside it,
/// or beside it; older ones carried it themselves.
fn native_of_package(package: &Path) -> Option<PathBuf> {
    let platform = platform_package();
    [
        package.join("node_modules/@openai").join(&platform),
        package.parent()?.join(&platform),
        package.to_owned(),
    ]
    .into_iter()
    .find_map(|root| native_below(&root.join("vendor")))
}

/// `vendor/<target triple>/bin/codex` for this machine.
fn native_below(vendor: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(vendor)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|dir| {
            dir.file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(std::env::consts::ARCH))
        })
        .map(|dir| dir.join("bin/codex"))
        .filter(|path| is_executable(path))
        .collect();
    found.sort();
    found.into_iter().next()
}

fn platform_package() -> String {
    let os = match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    };
    let arch = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("codex-{os}-{arch}")
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

fn is_script(path: &Path) -> bool {
    let mut start = [0; 2];
    std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && &start == b"#!"
}

fn not_found(looked_at: &str) -> SetupError {
    SetupError::CodexNotFound { looked_at: looked_at.into(), mend: install_command() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn executable(path: &Path, content: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn triple() -> String {
        format!("{}-unknown-any", std::env::consts::ARCH)
    }

    #[test]
    fn versions_are_read_and_compared() {
        for (text, expected) in [
            ("codex-cli 0.169.0\n", Some("0.169.0")),
            ("WARNING: odd\ncodex-cli 1.2.3-alpha.4\n", Some("1.2.3-alpha.4")),
            ("codex-cli next\n", None),
            ("echo (GNU coreutils) 9.1\n", None),
            ("", None),
        ] {
            let found = parse_version(text).map(|version| version.to_string());
            assert_eq!(found.as_deref(), expected, "{text:?}");
        }
        assert!(parse_version("codex-cli 0.99.9").unwrap() < MINIMUM_VERSION);
        assert!(parse_version("codex-cli 0.169.0-alpha.1").unwrap() < MINIMUM_VERSION);
        assert!(parse_version("codex-cli 0.170.0").unwrap() > MINIMUM_VERSION);
    }

    #[test]
    fn the_order_is_named_then_path_then_project() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        for name in ["named", "bin/codex"] {
            executable(&root.join(name), "\x7fELF");
        }
        let of_project =
            format!("project/node_modules/@openai/{}/vendor/{}/bin/codex", platform_package(), triple());
        executable(&root.join(&of_project), "\x7fELF");
        std::fs::create_dir(root.join("empty")).unwrap();
        let mut inputs = LocateInputs {
            configured: Some(root.join("named")),
            path: Some(std::env::join_paths([root.join("empty"), root.join("bin")]).unwrap()),
            project_install: Some(root.join("project")),
            ..LocateInputs::default()
        };
        assert_eq!(find(&inputs).unwrap(), root.join("named"));
        inputs.configured = None;
        assert_eq!(find(&inputs).unwrap(), root.join("bin/codex"));
        inputs.path = Some(root.join("empty").into());
        assert_eq!(find(&inputs).unwrap(), root.join(of_project));
        inputs.project_install = None;
        let absent = find(&inputs).unwrap_err();
        assert!(absent.to_string().contains("npm install -g @openai/codex@0.169.0"), "{absent}");
        assert!(absent.needs_mending());
    }

    #[test]
    fn a_named_binary_that_is_not_there_is_an_error_not_a_fallback() {
        let temp = tempfile::tempdir().unwrap();
        executable(&temp.path().join("codex"), "\x7fELF");
        let inputs = LocateInputs {
            configured: Some(temp.path().join("gone")),
            path: Some(temp.path().into()),
            ..LocateInputs::default()
        };
        let error = find(&inputs).unwrap_err().to_string();
        assert!(error.contains("codex_bin") && error.contains("gone"), "{error}");
    }

    #[test]
    fn the_native_binary_behind_the_node_wrapper_is_taken() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let modules = root.join("lib/node_modules/@openai");
        executable(&modules.join("codex/bin/codex.js"), "#!/usr/bin/env node\n");
        std::fs::create_dir(root.join("bin")).unwrap();
        symlink(modules.join("codex/bin/codex.js"), root.join("bin/codex")).unwrap();
        let inputs = LocateInputs { path: Some(root.join("bin").into()), ..LocateInputs::default() };
        // A wrapper with nothing behind it is all there is.
        assert_eq!(find(&inputs).unwrap(), modules.join("codex/bin/codex.js"));
        let native = Path::new(&platform_package()).join("vendor").join(triple()).join("bin/codex");
        executable(&modules.join(&native), "\x7fELF");
        assert_eq!(find(&inputs).unwrap(), modules.join(&native), "beside the package");
        let inside = modules.join("codex/node_modules/@openai").join(&native);
        executable(&inside, "\x7fELF");
        assert_eq!(find(&inputs).unwrap(), inside, "inside the package");
    }

    #[tokio::test]
    async fn what_is_not_codex_is_refused() {
        for program in ["/bin/echo", "/bin/false"] {
            let inputs = LocateInputs { configured: Some(program.into()), ..LocateInputs::default() };
            let error = locate(&inputs).await.unwrap_err();
            assert!(matches!(error, SetupError::CodexUnusable { .. }), "{error}");
        }
    }
}
