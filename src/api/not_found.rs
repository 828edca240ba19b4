//! Paths and methods that are not served, told apart from those that do not exist.

use std::sync::LazyLock;

use axum::extract::Request;
use http::{Method, Uri};

use super::error::ApiError;

/// The operations of the official API (`scripts/spec-extract --operations`), a line a path. What has a route of ours
/// never gets here.
const OFFICIAL: &str = include_str!("not_found/official.txt");

/// One path of it.
struct Official {
    methods: Vec<&'static str>,
    /// Without the first slash; `{…}` stands for any.
    segments: Vec<&'static str>,
}

/// The longest part of a path that is repeated to its sender, bytes.
const MAX_PATH: usize = 200;

/// 404 for every path without a route.
pub(crate) async fn not_found(request: Request) -> ApiError {
    std::future::ready(unknown(request.method(), request.uri())).await
}

/// 405; axum adds `Allow`.
pub(crate) async fn method_not_allowed(request: Request) -> ApiError {
    std::future::ready(not_allowed(request.method(), request.uri())).await
}

fn not_allowed(method: &Method, uri: &Uri) -> ApiError {
    let path = uri.path();
    let is_official = official(path.strip_prefix("/v1/").unwrap_or_default())
        .is_some_and(|official| official.methods.contains(&method.as_str()));
    let hint =
        if is_official { NOT_SERVED } else { " (HINT: Perhaps you meant to use a different HTTP method?)" };
    ApiError::new("method_not_supported", format!("Not allowed to {method} on {}.{hint}", shown(path)))
}

const NOT_SERVED: &str = " This endpoint is part of the OpenAI API, but codex-bridge does not serve it: GET /openapi.json \
    has what it does.";

fn unknown(method: &Method, uri: &Uri) -> ApiError {
    let path = uri.path();
    let (code, hint) = match path.strip_prefix("/v1/") {
        Some(rest) if official(rest).is_some() => ("endpoint_not_served", NOT_SERVED),
        None if official(path.trim_start_matches('/')).is_some() => {
            ("unknown_url", " The base URL of this API ends in /v1.")
        }
        Some(_) | None => ("unknown_url", ""),
    };
    let message = format!("Invalid URL ({method} {}).{hint}", shown(path));
    ApiError::new(code, message)
}

/// What the official API has at a path below its base URL.
fn official(path: &str) -> Option<&'static Official> {
    static ALL: LazyLock<Vec<Official>> = LazyLock::new(|| {
        let lines = OFFICIAL.lines().filter_map(|line| line.split_once(" /"));
        lines
            .map(|(methods, path)| Official {
                methods: methods.split(',').collect(),
                segments: path.split('/').collect(),
            })
            .collect()
    });
    let given: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    let fits =
        |(wanted, given): (&&str, &&str)| wanted == given || (wanted.starts_with('{') && !given.is_empty());
    ALL.iter().find(|official| {
        official.segments.len() == given.len() && official.segments.iter().zip(&given).all(fits)
    })
}

fn shown(path: &str) -> &str {
    &path[..path.floor_char_boundary(MAX_PATH)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::router::routes;

    fn code(path: &str) -> String {
        unknown(&Method::GET, &path.parse().unwrap()).code.unwrap()
    }

    #[test]
    fn official_endpoints_are_told_apart() {
        for path in [
            "/v1/embeddings",
            "/v1/embeddings/",
            "/v1/threads/x/runs",
            "/v1/uploads/a/parts",
            "/v1/audio/speech",
        ] {
            assert_eq!(code(path), "endpoint_not_served", "{path}");
        }
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/v1/nothing",
            "/v1/embeddingsx",
            "/v1/responses/resp_1/x",
            "/v1/uploads//parts",
        ] {
            assert_eq!(code(path), "unknown_url", "{path}");
        }
    }

    #[test]
    fn a_forgotten_v1_is_hinted_at() {
        for path in ["/chat/completions", "/responses/resp_1"] {
            let error = unknown(&Method::POST, &path.parse().unwrap());
            assert!(error.message.contains("ends in /v1"), "{}", error.message);
        }
    }

    /// Each official operation has a route of ours, or is said to have none.
    #[test]
    fn every_official_operation_is_served_or_said_not_to_be() {
        let routes = routes();
        let (mut served, mut paths) = (0, 0);
        for line in OFFICIAL.lines() {
            paths += 1;
            let (methods, path) = line.split_once(' ').unwrap();
            let path = format!("/v1{path}").replace(['{', '}'], "x");
            let uri: Uri = path.parse().unwrap();
            for method in methods.split(',').map(|method| method.parse::<Method>().unwrap()) {
                let there: Vec<_> = routes.iter().filter(|route| covers(route.path, &path)).collect();
                if there.iter().any(|route| route.method == method) {
                    served += 1;
                    continue;
                }
                let error =
                    if there.is_empty() { unknown(&method, &uri) } else { not_allowed(&method, &uri) };
                let code = if there.is_empty() { "endpoint_not_served" } else { "method_not_supported" };
                assert_eq!(error.code.as_deref(), Some(code), "{method} {path}");
                assert!(error.message.contains("does not serve it"), "{}", error.message);
            }
        }
        assert!(served >= 8 && paths > 150, "{served} of {paths}");
    }

    fn covers(route: &str, path: &str) -> bool {
        let (wanted, given): (Vec<_>, Vec<_>) = (route.split('/').collect(), path.split('/').collect());
        wanted.len() == given.len()
            && wanted.iter().zip(&given).all(|(wanted, given)| wanted == given || wanted.starts_with('{'))
    }

    #[test]
    fn a_mere_slip_is_no_missing_endpoint() {
        let error = not_allowed(&Method::PUT, &"/v1/chat/completions".parse().unwrap());
        assert!(error.message.contains("different HTTP method"), "{}", error.message);
    }

    #[test]
    fn a_long_path_is_cut() {
        let path = format!("/{}", "x".repeat(5000));
        assert!(unknown(&Method::GET, &path.parse().unwrap()).message.len() < 300);
    }
}
