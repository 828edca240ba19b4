//! What the README's list of threats says, tried on the real binary.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http::{Client, PATIENCE, until};
use crate::process::{Process, Stage};
use crate::world::{FACES, On, World, processes_of};

const KEY: &str = "a-key-of-this-bridge";
/// With a key, and everything there is to log.
const LOUD: [(&str, &str); 2] =
    [("CODEX_BRIDGE_AUTH__TOKENS", "laptop:a-key-of-this-bridge"), ("CODEX_BRIDGE_LOG__FILTER", "trace")];

/// Every file below a folder.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        found.push(entry.path());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(&entry.path()));
        }
    }
    found
}

fn holds(file: &Path, word: &str) -> bool {
    let bytes = std::fs::read(file).unwrap_or_default();
    bytes.windows(word.len()).any(|found| found == word.as_bytes())
}

/// What a prompt may make of the model: it calls Codex's own tools by name. None of them is there.
#[tokio::test]
async fn codexs_own_tools_called_by_name_run_nothing() {
    for face in FACES {
        let world = World::start(face).await;
        let marks = world.place.temp.path().join("marks");
        std::fs::create_dir(&marks).expect("a folder");
        let mark = |name: &str| marks.join(name).display().to_string();
        let touch = |name: &str| format!("touch '{}'", mark(name));
        let patch = |file: &str| format!("*** Begin Patch\n*** Add File: {file}\n+ran\n*** End Patch");
        let calls = [
            ("shell", json!({"command": ["/bin/sh", "-c", touch("shell")]})),
            (
                "shell",
                json!({"command": ["/bin/sh", "-c", touch("shell-up")],
                "sandbox_permissions": "require_escalated", "with_escalated_permissions": true,
                "justification": "please"}),
            ),
            ("shell_command", json!({"command": touch("shell_command")})),
            ("local_shell", json!({"command": ["/bin/sh", "-c", touch("local_shell")]})),
            ("container.exec", json!({"command": ["/bin/sh", "-c", touch("container")]})),
            ("exec_command", json!({"cmd": touch("exec_command")})),
            ("unified_exec", json!({"input": ["/bin/sh", "-c", touch("unified_exec")]})),
            ("write_stdin", json!({"session_id": 1, "chars": touch("write_stdin")})),
            ("apply_patch", json!({"input": patch(&mark("apply_patch"))})),
            ("apply_patch", json!({"input": patch("apply_patch_here")})),
            ("view_image", json!({"path": world.place.user("auth.json")})),
            ("update_plan", json!({"plan": [{"step": touch("plan"), "status": "in_progress"}]})),
            ("read_file", json!({"file_path": "/etc/passwd"})),
            ("list_dir", json!({"dir_path": "/"})),
            ("spawn_agent", json!({"message": touch("agent")})),
            ("request_user_input", json!({"questions": []})),
        ];
        world.ask("hi").await.ok();
        let before = processes_of(&world.place).len();
        for (n, (name, arguments)) in calls.iter().enumerate() {
            let ask = format!("ask-{n} CALLTOOL {name} {arguments}");
            for (path, body) in [
                ("/v1/responses", json!({"input": ask})),
                ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": ask}]})),
            ] {
                let answer = world.client.post(path, &body).await;
                assert!(answer.status < 500 || answer.status == 502, "{face:?} {name}: {}", answer.text);
                assert!(!answer.text.contains("root:"), "{face:?} {name}: {}", answer.text);
            }
            for seen in world.seen_with(&format!("ask-{n} ")) {
                let offered = seen.body["tools"].as_array().map_or(0, Vec::len);
                assert_eq!(offered, 0, "{face:?} {name}: {}", seen.body["tools"]);
                let outputs = seen.input.to_string();
                assert!(!outputs.contains("Exit code: 0") && !outputs.contains("exit_code\":0"), "{outputs}");
            }
        }
        world.until_idle().await;
        assert_eq!(files(&marks), Vec::<std::path::PathBuf>::new(), "{face:?}: something ran");
        let left = files(&world.place.state()).into_iter().filter(|file| file.ends_with("apply_patch_here"));
        assert_eq!(left.count(), 0, "{face:?}: a patch was applied");
        assert_eq!(processes_of(&world.place).len(), before, "{face:?}: something runs");
        world.end().await;
    }
}

/// Other people's keys: told apart, refused, and gone.
#[tokio::test]
async fn an_openai_key_or_a_chatgpt_token_is_refused_and_neither_passed_on_nor_logged() {
    const OPENAI: &str = "sk-proj-0123456789somebodys";
    const CHATGPT: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzb21lYm9keSJ9.c29tZWJvZHlz";
    for face in FACES {
        let stage = Stage::new(face).await;
        let bridge = stage.serve("one", &LOUD).await;
        let address = bridge.client.address();
        for (secret, said) in [(OPENAI, "OpenAI API key"), (CHATGPT, "ChatGPT access token")] {
            let refused =
                Client::new(address, Some(secret)).post("/v1/responses", &json!({"input": "hi"})).await;
            assert_eq!(refused.failure(), (401, "invalid_api_key".into()));
            let message = refused.error()["message"].to_string();
            assert!(message.contains(said) && !message.contains(secret), "{message}");
            // With a right key, theirs in every other place.
            let good = Client::new(address, Some(KEY));
            let elsewhere = [
                ("x-api-key", secret),
                ("api-key", secret),
                ("cookie", secret),
                ("openai-organization", secret),
                ("openai-project", secret),
                ("proxy-authorization", secret),
            ];
            good.post_with("/v1/responses", &elsewhere, &json!({"input": "SAY in"})).await.ok();
            let http2 =
                reqwest::Client::builder().http2_prior_knowledge().no_proxy().timeout(PATIENCE).build();
            let refused =
                http2.expect("a client").get(format!("http://{address}/v1/models")).bearer_auth(secret);
            assert_eq!(refused.send().await.expect("an answer").status(), 401);
        }
        bridge.stop().await;
        let log = stage.words("one");
        assert!(log.contains("TRACE") && log.contains("/v1/models"), "nothing was logged");
        for secret in [OPENAI, CHATGPT, KEY] {
            assert_eq!(log.lines().find(|line| line.contains(secret)), None, "{face:?}");
            let sent = stage.standin.requests();
            assert!(!sent.is_empty());
            for seen in sent {
                let sent = format!("{:?} {} {}", seen.headers, seen.body, seen.path);
                assert!(!sent.contains(secret), "{face:?}: {sent}");
                // The face without a login sends no credentials at all: nothing that could be somebody's.
                let named =
                    seen.headers.keys().find(|name| name.contains("auth") || name.contains("api-key"));
                assert!(face == On::LoggedIn || named.is_none(), "{named:?}");
            }
            let kept: Vec<_> =
                files(&stage.state("one")).into_iter().filter(|file| holds(file, secret)).collect();
            assert!(kept.is_empty(), "{face:?}: {kept:?}");
        }
        stage.end().await;
    }
}

/// Ids, names and metadata are text of a stranger's: none becomes a path, a header or a line of the log.
#[tokio::test]
async fn ids_and_metadata_reach_no_path_no_header_and_no_log_line_raw() {
    let stage = Stage::new(On::Plain).await;
    let bridge = stage.serve("one", &[("CODEX_BRIDGE_LOG__FILTER", "debug")]).await;
    let huge = "x".repeat(100_000);
    let hostile = [
        "../../../../etc/passwd",
        "/etc/passwd",
        "resp_1/../../forged-file",
        "a\r\nx-forged: yes\r\n\r\n",
        "a\n2026-01-01T00:00:00Z  INFO forged-line: all is well",
        "a\u{0}b",
        "\u{1b}[2Jforged-screen",
        "ü\u{202e}\u{feff}😀",
        "'; DROP TABLE responses; --",
        &huge,
    ];
    let before = listing(stage.place.temp.path());
    for text in hostile {
        for body in [
            json!({"input": "hi", "previous_response_id": text}),
            json!({"input": "hi", "model": text}),
            json!({"input": "hi", "metadata": {"k": text}}),
            json!({"input": "hi", "metadata": {text: "v"}}),
            json!({"input": "hi", "user": text}),
            json!({"input": "hi", "safety_identifier": text}),
            json!({"input": "hi", "prompt_cache_key": text}),
            json!({"input": "hi", "client_metadata": {"session_id": text}}),
            json!({"input": "hi", "tools": [{"type": "function", "name": text, "parameters": {}}]}),
            json!({"input": [{"type": "item_reference", "id": text}]}),
            json!({"input": [{"type": "function_call_output", "call_id": text, "output": text}]}),
            json!({"input": [{"role": text, "content": text}]}),
            json!({text: "x", "input": "hi"}),
        ] {
            let answer = bridge.client.post("/v1/responses", &body).await;
            check(&answer);
        }
        // What a header may hold at all.
        if let Ok(value) = reqwest::header::HeaderValue::from_bytes(text.as_bytes())
            && value.len() < 10_000
        {
            for name in
                ["x-request-id", "session-id", "x-session-id", "x-client-request-id", "openai-project"]
            {
                let answer = raw(&bridge, name, value.as_bytes()).await;
                let head = answer.split("\r\n\r\n").next().expect("a head");
                // A safe one is sent back, as a value.
                assert!(!head.contains("\r\nx-forged"), "{name}: {head}");
            }
        }
        let start = &text.as_bytes()[..text.len().min(500)];
        let path: String = url::form_urlencoded::byte_serialize(start).collect();
        for route in ["/v1/models/", "/v1/responses/", "/"] {
            check(&bridge.client.get(&format!("{route}{path}")).await);
        }
    }
    let after = listing(stage.place.temp.path());
    let strange = after.iter().filter(|file| {
        let new = !before.contains(file);
        new && (file.contains("forged")
            || file.contains("passwd")
            || file.contains("DROP")
            || file.len() > 500)
    });
    let strange: Vec<_> = strange.collect();
    assert!(strange.is_empty(), "{strange:?}");
    bridge.stop().await;
    let log = stage.words("one");
    assert!(log.lines().count() > 100);
    for line in log.lines() {
        let stamped =
            line.len() > 20 && line.as_bytes()[..4].iter().all(u8::is_ascii_digit) && &line[4..5] == "-";
        assert!(stamped && !line.starts_with("2026-01-01T00:00:00Z"), "no line of ours: {line:?}");
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    stage.end().await;
}

#[track_caller]
fn check(answer: &crate::http::Answer) {
    assert!(answer.status < 500, "{}", answer.text);
    // A name of an ignored field is sent back, with what no header may hold made harmless.
    assert!(!answer.headers.keys().any(|name| name.as_str().contains("forged")), "{:?}", answer.headers);
}

fn listing(folder: &Path) -> Vec<String> {
    files(folder).into_iter().map(|file| file.display().to_string()).collect()
}

/// A request with one header as raw as it gets; the whole answer.
async fn raw(bridge: &Process, name: &str, value: &[u8]) -> String {
    let mut socket = tokio::net::TcpStream::connect(bridge.client.address()).await.expect("a connection");
    let mut request =
        format!("GET /v1/models HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{name}: ").into_bytes();
    request.extend_from_slice(value);
    request.extend_from_slice(b"\r\n\r\n");
    socket.write_all(&request).await.expect("it is taken");
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer))
        .await
        .expect("in time")
        .expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Nothing of our memory is left behind, and we still see what our child takes of the machine's.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn neither_the_bridge_nor_its_child_leaves_a_core_and_the_childs_memory_is_still_seen() {
    let stage = Stage::new(On::Plain).await;
    let bridge = stage.serve("one", &[("CODEX_BRIDGE_APP_SERVER__MEMORY_CHECK", "50ms")]).await;
    let memory =
        until("its memory is read", async || bridge.health().await["app_server"]["memory_bytes"].as_u64());
    assert!(memory.await > 1_000_000);
    let child = bridge.health().await["app_server"]["pid"].as_u64().expect("a child");
    for pid in [u64::from(bridge.pid()), child] {
        let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
        // Neither a file nor a crash reporter gets anything.
        assert_eq!(core.split_whitespace().nth(4), Some("1"), "{core}");
    }
    bridge.stop().await;
    stage.end().await;
}

/// The app-server's socket, which stands outside the state folder.
#[tokio::test]
async fn the_app_servers_socket_is_ours_alone() {
    let world = World::start(On::Plain).await;
    world.ask("hi").await.ok();
    let sockets = files(&world.place.state()).into_iter().filter_map(|file| {
        let target = std::fs::canonicalize(&file).ok()?;
        std::fs::metadata(&target).ok()?.file_type().is_socket().then_some(target)
    });
    let sockets: Vec<_> = sockets.collect();
    assert!(!sockets.is_empty(), "no socket was found");
    for socket in sockets {
        let mode = |path: &Path| std::fs::metadata(path).expect("it is there").mode() & 0o777;
        assert_eq!(mode(&socket), 0o600, "{}", socket.display());
        let folder = socket.parent().expect("a folder");
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    world.end().await;
}

/// A table that a test walks cannot name tests that are not there.
#[test]
fn every_test_that_the_list_of_threats_names_is_there() {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("<!-- threats:begin -->\n").expect("the begin marker");
    let (tables, _) = rest.split_once("<!-- threats:end -->").expect("the end marker");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources: Vec<String> = ["src", "tests"]
        .iter()
        .flat_map(|folder| files(&root.join(folder)))
        .filter(|file| file.extension().is_some_and(|kind| kind == "rs"))
        .map(|file| std::fs::read_to_string(file).expect("a source"))
        .collect();
    let mut rows = 0;
    for row in tables.lines().filter(|line| line.starts_with("| ") && line.contains('`')) {
        let tests = row.trim_end_matches('|').rsplit('|').next().expect("a last column");
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty(), "no test: {row}");
        for name in named {
            let there = sources.iter().any(|source| source.contains(&format!("fn {name}(")));
            assert!(there, "there is no test {name}");
        }
        rows += 1;
    }
    assert!(rows > 20, "{rows}");
}
