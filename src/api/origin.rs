//! Keeps web pages out: a page may call only from a configured origin, and only by a name that is ours.
//!
//! A page that points a name of its own at this machine (DNS rebinding) shows in `Host`; any other page
//! shows in `Origin`.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::edge::Edge;
use super::error::ApiError;
use crate::config::ServerConfig;

const ALLOWED_METHODS: HeaderValue = HeaderValue::from_static("GET, POST, DELETE");
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "x-request-id, retry-after, openai-processing-ms, x-codex-bridge-ignored, x-codex-bridge-version",
);
/// How long a browser may remember a preflight's answer, seconds.
const PREFLIGHT_SECONDS: HeaderValue = HeaderValue::from_static("600");
const REQUEST_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-request-private-network");
const ALLOW_PRIVATE_NETWORK: HeaderName = HeaderName::from_static("access-control-allow-private-network");

/// Which hosts and origins are ours.
#[derive(Debug)]
pub(crate) struct Origins {
    allowed: Vec<String>,
    hosts: Vec<String>,
    /// Bound to every address: reached by whichever of them. A rebound page comes by a name, never by one.
    any_address: bool,
}

impl Origins {
    pub(crate) fn new(config: &ServerConfig) -> Self {
        let bound = without_brackets(&config.host).to_owned();
        let any_address = bound.parse().is_ok_and(|address: IpAddr| address.is_unspecified());
        let origin = |origin: &String| origin.trim_end_matches('/').to_ascii_lowercase();
        let host = |host: &String| host_name(host).to_ascii_lowercase();
        Self {
            allowed: config.allowed_origins.iter().map(origin).collect(),
            hosts: config.allowed_hosts.iter().chain([&config.host]).map(host).collect(),
            any_address,
        }
    }

    fn takes_host(&self, host: &str) -> bool {
        let name = host_name(host);
        let address = name.parse::<IpAddr>();
        name.eq_ignore_ascii_case("localhost")
            || address.is_ok_and(|address| address.is_loopback() || self.any_address)
            || self.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(name))
    }

    fn takes_origin(&self, origin: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
    }

    /// The origin to answer to, if the request names an allowed one.
    fn check(&self, request: &Request) -> Result<Option<HeaderValue>, ApiError> {
        // A request may name its host twice; a client that names none is no browser.
        let hosts = request.headers().get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
        let target = request.uri().authority().map(http::uri::Authority::as_str);
        if hosts.chain(target).any(|host| !self.takes_host(host)) {
            return Err(forbidden(
                "host_not_allowed",
                "This Host is not served. Use the address the bridge is bound to, or add the name to \
                 `server.allowed_hosts`.",
            ));
        }
        let mut allowed = None;
        for origin in request.headers().get_all(ORIGIN) {
            if !origin.to_str().is_ok_and(|origin| self.takes_origin(origin)) {
                return Err(forbidden(
                    "origin_not_allowed",
                    "This Origin may not call the bridge. Add it to `server.allowed_origins` if it should.",
                ));
            }
            allowed = Some(origin.clone());
        }
        Ok(allowed)
    }
}

/// Refuses what must not come in, and speaks CORS with allowed origins.
pub(crate) async fn guard(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    let origin = match edge.origins.check(&request) {
        Ok(origin) => origin,
        Err(error) => return error.into_response(),
    };
    let Some(origin) = origin else { return next.run(request).await };
    let mut response = match preflight(&request) {
        Some(answer) => answer,
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(VARY, HeaderValue::from_static("Origin"));
    response
}

/// The answer to a browser that asks before it sends.
fn preflight(request: &Request) -> Option<Response> {
    let asked: &HeaderMap = request.headers();
    if request.method() != Method::OPTIONS || !asked.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
        return None;
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, ALLOWED_METHODS);
    headers.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS);
    if let Some(names) = asked.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    if asked.contains_key(REQUEST_PRIVATE_NETWORK) {
        headers.insert(ALLOW_PRIVATE_NETWORK, HeaderValue::from_static("true"));
    }
    Some(response)
}

fn forbidden(code: &'static str, message: &str) -> ApiError {
    ApiError::new(code, message)
}

/// The name or address of `host[:port]`, without brackets and without the root's dot.
fn host_name(host: &str) -> &str {
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    if let Some(bracketed) = host.strip_prefix('[') {
        return bracketed.split_once(']').map_or(bracketed, |(address, _)| address);
    }
    let name = match host.split_once(':') {
        // More than one colon is a bare IPv6 address.
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

fn without_brackets(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(bound: &str) -> Origins {
        Origins::new(&ServerConfig {
            host: bound.into(),
            allowed_origins: vec!["https://App.example/".into()],
            allowed_hosts: vec!["bridge.lan".into()],
            ..ServerConfig::default()
        })
    }

    #[test]
    fn loopback_and_configured_hosts_are_ours() {
        let ours = origins("127.0.0.1");
        for host in [
            "localhost",
            "LOCALHOST:8787",
            "localhost.:1",
            "127.0.0.1:8787",
            "127.9.9.9",
            "[::1]:8787",
            "[::1]",
            "bridge.lan",
            "Bridge.LAN:80",
        ] {
            assert!(ours.takes_host(host), "{host}");
        }
    }

    #[test]
    fn other_hosts_are_not() {
        let ours = origins("127.0.0.1");
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.168.1.5",
            "0.0.0.0",
            "[::2]",
            "evil.example:8787",
            "localhost@evil.example",
        ] {
            assert!(!ours.takes_host(host), "{host}");
        }
    }

    #[test]
    fn the_bound_address_is_ours() {
        assert!(origins("192.168.1.5").takes_host("192.168.1.5:8787"));
        assert!(!origins("192.168.1.5").takes_host("192.168.1.6:8787"));
        for unspecified in ["0.0.0.0", "::", "[::]"] {
            let ours = origins(unspecified);
            assert!(ours.takes_host("10.0.0.7:8787") && ours.takes_host("[fe80::1]"), "{unspecified}");
            assert!(!ours.takes_host("evil.example"), "{unspecified}");
        }
    }

    #[test]
    fn only_configured_origins_are_taken() {
        let ours = origins("127.0.0.1");
        assert!(ours.takes_origin("https://app.example"));
        for origin in [
            "null",
            "",
            "http://app.example",
            "https://app.example.evil",
            "https://app.example:444",
            "http://localhost",
        ] {
            assert!(!ours.takes_origin(origin), "{origin}");
        }
    }
}
