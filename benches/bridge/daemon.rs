//! What is measured: `codex-bridge serve` on a state folder of its own, and the stand-in model behind it in a
//! process of its own, so that its work and its memory are nobody else's.

use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;
use tokio::process::Command;

use crate::service::Service;

/// The key every call brings.
pub(crate) const API_KEY: &str = "bench";

/// The running pair.
#[derive(Debug)]
pub(crate) struct Daemon {
    // Dropped in this order.
    bridge: Service,
    standin: Service,
    folder: TempDir,
}

impl Daemon {
    pub(crate) async fn start(program: &Path, few_roots: bool) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("codex-bridge-bench").tempdir()?;
        let mut command = Command::new(program);
        command.args(["standin", "--port", "0", "--folder"]).arg(folder.path().join("standin"));
        let standin = Service::start(command, "stand-in on", &folder.path().join("standin.log")).await?;

        // A home without a login: none is needed, and none is touched.
        let home = folder.path().join("home");
        std::fs::create_dir(&home)?;
        let mut command = serve(program, folder.path(), &home, &provider(standin.address()));
        if few_roots {
            give_few_roots(&mut command, folder.path())?;
        }
        let bridge = Service::start(command, "listening on", &folder.path().join("bridge.log")).await?;
        Ok(Self { bridge, standin, folder })
    }

    pub(crate) fn bridge(&self) -> &Service {
        &self.bridge
    }

    pub(crate) fn standin(&self) -> &Service {
        &self.standin
    }

    /// A folder that goes with the daemon.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Both must end cleanly.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        self.bridge.stop().await?;
        self.standin.stop().await
    }
}

/// The command of a bridge on a state folder of its own below `folder`, with the login in `home`.
pub(crate) fn serve(program: &Path, folder: &Path, home: &Path, codex_config: &[String]) -> Command {
    let mut command = Command::new(program);
    command.args(["serve", "--port", "0", "--state"]).arg(folder.join("state"));
    for setting in codex_config {
        command.args(["--codex-config", setting]);
    }
    command.env("CODEX_HOME", home).env("XDG_CONFIG_HOME", home);
    command.env("CODEX_BRIDGE_LOG__FILTER", "info").env("CODEX_NATIVE_API_AUTH_TOKEN", API_KEY);
    command.envs(["NO_PROXY", "no_proxy"].map(|name| (name, "127.0.0.1,localhost")));
    command
}

/// Gives what `command` starts one certificate authority: the model is reached without TLS, none is needed.
pub(crate) fn give_few_roots(command: &mut Command, folder: &Path) -> anyhow::Result<()> {
    let file = folder.join("roots.pem");
    std::fs::write(&file, made_up_root()?)?;
    command.env("SSL_CERT_FILE", file).env_remove("SSL_CERT_DIR").env_remove("NIX_SSL_CERT_FILE");
    Ok(())
}

/// A certificate authority nobody has signed anything with.
fn made_up_root() -> anyhow::Result<String> {
    let key = rcgen::KeyPair::generate()?;
    let mut root = rcgen::CertificateParams::new(Vec::new())?;
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    Ok(root.self_signed(&key)?.pem())
}

/// The settings that point a codex at the stand-in.
fn provider(standin: SocketAddr) -> [String; 5] {
    [
        r#"model_provider="standin""#.to_owned(),
        r#"model_providers.standin.name="Stand-in""#.to_owned(),
        format!(r#"model_providers.standin.base_url="http://{standin}/v1""#),
        r#"model_providers.standin.wire_api="responses""#.to_owned(),
        "model_providers.standin.requires_openai_auth=false".to_owned(),
    ]
}
