//! The sockets we listen on: one of our own, or those that a service manager holds, also while we restart.

use std::fmt;
use std::net::SocketAddr;

use anyhow::{Context, ensure};
use tokio::net::TcpListener;

use crate::config::{Config, ServerConfig};

/// At least one, each with its address.
#[derive(Debug)]
pub(super) struct Listeners(Vec<(TcpListener, SocketAddr)>);

impl Listeners {
    /// The configured address.
    pub(super) async fn bind(config: &ServerConfig) -> anyhow::Result<Self> {
        let at = (config.host.as_str(), config.port);
        let listener = TcpListener::bind(at)
            .await
            .with_context(|| format!("cannot listen on {}:{}; is another bridge running?", at.0, at.1))?;
        let address = listener.local_addr()?;
        Ok(Self(vec![(listener, address)]))
    }

    /// What a service manager has bound for us: its addresses take the place of the configured one, and the same
    /// rules hold for them.
    pub(super) fn adopt(passed: Vec<std::net::TcpListener>, config: &mut Config) -> anyhow::Result<Self> {
        let mut listeners = Vec::with_capacity(passed.len());
        for listener in passed {
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            ensure!(
                address.ip().is_loopback() || !config.auth.is_open(),
                "the service manager's socket {address} is reachable from beyond this machine, and there is no \
                 token; set auth.tokens or let it listen on 127.0.0.1"
            );
            listeners.push((TcpListener::from_std(listener)?, address));
        }
        let hosts = listeners.iter().map(|(_, address)| address.ip());
        // The one that takes every address stands for all of them.
        let host = hosts.clone().find(std::net::IpAddr::is_unspecified).or_else(|| hosts.clone().next());
        config.server.allowed_hosts.extend(hosts.map(|host| host.to_string()));
        if let Some(host) = host {
            config.server.host = host.to_string();
        }
        Ok(Self(listeners))
    }

    /// The first one's.
    pub(super) fn address(&self) -> SocketAddr {
        self.0.first().map_or_else(|| ([0, 0, 0, 0], 0).into(), |(_, address)| *address)
    }

    pub(super) fn take(self) -> Vec<TcpListener> {
        self.0.into_iter().map(|(listener, _)| listener).collect()
    }
}

impl fmt::Display for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<_> = self.0.iter().map(|(_, address)| address.to_string()).collect();
        f.write_str(&addresses.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NamedToken;

    fn bound(address: &str) -> Vec<std::net::TcpListener> {
        vec![std::net::TcpListener::bind(address).unwrap()]
    }

    #[tokio::test]
    async fn a_passed_socket_takes_the_place_of_the_configured_address() {
        let passed = bound("127.0.0.1:0");
        let address = passed[0].local_addr().unwrap();
        let mut config = Config::default();
        config.server.host = "192.0.2.1".into();
        let listeners = Listeners::adopt(passed, &mut config).unwrap();
        assert_eq!((listeners.address(), &*config.server.host), (address, "127.0.0.1"));
        assert_eq!(listeners.to_string(), address.to_string());
    }

    #[tokio::test]
    async fn a_passed_socket_that_is_open_to_others_wants_a_token() {
        let mut config = Config::default();
        let refused = Listeners::adopt(bound("0.0.0.0:0"), &mut config).unwrap_err();
        assert!(refused.to_string().contains("auth.tokens"), "{refused}");
        config.auth.tokens.push(NamedToken { name: "one".into(), token: "secret".into() });
        Listeners::adopt(bound("0.0.0.0:0"), &mut config).unwrap();
        assert_eq!(config.server.host, "0.0.0.0");
    }
}
