//! The key table: every setting's name, kind, meaning and place. The loader, `config show` and the README's
//! table all read this one list.

use super::classes;
use super::error::{Mistake, Source};
use super::kinds::{
    AccountChange, Address, BackendName, BaseUrl, BreakerModeName, ChainItems, CipherKey, Count, Filter,
    Folder, Format, Host, Hosts, Kind, Limits, Map, Names, OnUnknownTools, OptionalFile, OptionalText,
    Origins, Percent, Place, Port, Positive, Processes, Program, Reasons, RedisPrefix, RedisUrl,
    ScaffoldName, Secret, Settings, Size, Span, SpanOrZero, Switch, Tokens,
};
use super::sections::Config;
use super::value::Value;

/// What all variables of ours start with.
pub(super) const PREFIX: &str = "CODEX_BRIDGE_";

/// One setting.
pub(super) struct Key {
    /// `section.key`; of a section of tables, its name alone.
    pub(super) name: &'static str,
    /// For the README and for people who ask.
    pub(super) meaning: &'static str,
    /// The default in words, where it depends on the machine.
    pub(super) default: Option<&'static str>,
    /// The value must not be quoted in a mistake.
    pub(super) secret: bool,
    /// A further variable; `CODEX_BRIDGE_…` wins over it.
    pub(super) also: Option<&'static str>,
    pub(super) read: fn(&mut Config, &Value, &Place<'_>) -> Result<(), String>,
    pub(super) show: fn(&Config) -> serde_json::Value,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Key {
    const fn also(mut self, variable: &'static str) -> Self {
        self.also = Some(variable);
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    const fn default(mut self, words: &'static str) -> Self {
        self.default = Some(words);
        self
    }

    /// `CODEX_BRIDGE_<SECTION>__<KEY>`.
    pub(super) fn variable(&self) -> String {
        format!("{PREFIX}{}", self.name.replace('.', "__").to_ascii_uppercase())
    }

    /// A mistake in this key's value, which is masked where it may be a secret.
    pub(super) fn mistake(&self, value: &Value, source: Source, problem: String) -> Mistake {
        let shown = value.to_string();
        let hide = self.secret || (shown.contains("://") && shown.contains('@'));
        let value = Some(if hide { super::kinds::MASK.to_owned() } else { shown });
        Mistake { key: self.name.into(), value, source, problem }
    }
}

macro_rules! key {
    ($section:ident . $field:ident, $kind:ident, $meaning:literal) => {
        key!(concat!(stringify!($section), ".", stringify!($field)), ($section . $field), $kind, $meaning)
    };
    ($name:expr, ($($place:tt)+), $kind:ident, $meaning:literal) => {
        Key {
            name: $name,
            meaning: $meaning,
            default: None,
            secret: false,
            also: None,
            read: |config, value, place| {
                config.$($place)+ = <$kind as Kind>::read(value, place)?;
                Ok(())
            },
            show: |config| <$kind as Kind>::show(&config.$($place)+),
        }
    };
}

/// Every setting, in the order of the README.
pub(super) static KEYS: &[Key] = &[
    key!(server.host, Host, "Address to bind. Anything but loopback wants a token.").also("CODEX_NATIVE_API_HOST"),
    key!(server.port, Port, "Port to bind; 0 picks one.").also("CODEX_NATIVE_API_PORT"),
    key!(server.allowed_origins, Origins, "Web origins whose pages may call; a request with any other `Origin` is refused."),
    key!(server.allowed_hosts, Hosts, "`Host` names taken beside the loopback ones; any other is refused."),
    key!(server.max_body_bytes, Size, "Largest request body; more is a 413."),
    key!(server.body_memory, Size, "All request bodies held at once, each until its call has ended, at most half of it a key's, but for a single larger body. Past it a body waits unread, at most `server.body_timeout`, and then is a 503."),
    key!(server.header_timeout, Span, "A client must have sent its request head by then; a kept-alive connection may be idle as long."),
    key!(server.body_timeout, Span, "A client must have sent its whole body by then."),
    key!(server.write_timeout, Span, "A client must take something of its answer within this while there is something to take; else its connection is closed, or on HTTP/2, where others read on, its stream."),
    key!(server.max_connections, Positive, "Connections held at once. Past it, the one that is idle longest makes place; where none is idle, a newcomer gets a 503 (and `/healthz`, `/readyz`, `/v1/health`)."),
    key!(auth.tokens, Tokens, "Bearer tokens by name: `name = \"secret\"` or `name = {file = \"path\"}`. With none, and no file of keys, anyone who reaches the loopback address may call.")
        .also(NATIVE_TOKEN)
        .secret(),
    key!(auth.limits, Limits, "What a token of `auth.tokens` may do, by its name: `[auth.limits.name]` with what a key of the file can have (see Keys)."),
    key!(auth.keys_file, OptionalFile, "Further keys, hashed; `codex-bridge keys` writes it. Where there is one, `/v1` is closed to everyone else.")
        .default("`keys.toml` in `state.dir`, if it is there"),
    key!(app_server.codex_bin, Program, "The codex binary; else `codex` on PATH, else the project's own install.")
        .also("CODEX_BIN"),
    key!(app_server.codex_config, Settings, "Further `-c KEY=VALUE` settings for our own app-server.").secret(),
    key!(app_server.scaffold, ScaffoldName, "`none`: nothing but the client's words reaches the model. `codex`: the stock catalogue and instructions, for a backend that insists on them."),
    key!(app_server.connect, Address, "An app-server that somebody else runs, `ws://host:port` or `unix:///path`, in place of our own child."),
    key!(app_server.connect_token, Secret, "Capability token for a `ws://` app-server.").secret(),
    key!(app_server.connect_token_file, OptionalFile, "File that holds `connect_token`."),
    key!(app_server.user_codex_home, Folder, "The Codex home whose login is shared.")
        .also("CODEX_HOME")
        .default("`~/.codex`"),
    key!(app_server.catalogue_check, Span, "How often the model catalogue is looked at again; a difference recycles the child."),
    key!(app_server.max_memory, Size, "Memory of our own app-server; past it a new one takes over, and the old one finishes what it has."),
    key!(app_server.memory_check, Span, "How often its memory is looked at; it is not replaced before the tenth look."),
    key!(app_server.max_databases, Size, "Disk space of one app-server's databases (its log above all), which are looked at with its memory and deleted when it ends; past it a new one takes over."),
    key!(app_server.processes, Processes, "App-servers of our own that share the load, 1 to 16: a new thread goes to the one with the fewest turns, and a conversation stays where it is."),
    key!(app_server.probe_interval, SpanOrZero, "How often an app-server is asked whether it still answers; `0s` never asks."),
    key!(app_server.probe_timeout, Span, "It must have answered by then; after two in a row that it did not, it is killed and another one started."),
    key!(app_server.orphan_sweep, SpanOrZero, "How often, beside each new connection, threads of ours that nobody waits for are looked for, and their turns interrupted; `0s` never looks."),
    key!(app_server.start_timeout, Span, "The child must answer by then; after one that was late the next has twice as long, up to four times."),
    key!(app_server.drain_limit, Span, "A replaced app-server may finish its turns this long, and never less than `turn.deadline`."),
    key!(app_server.request_timeout, Span, "One request to the app-server must be answered by then."),
    key!(models.default_model, OptionalText, "For requests that name no model; else the account's own default.")
        .also("CODEX_NATIVE_API_DEFAULT_MODEL"),
    key!(models.aliases, Map, "What a client may call a model: `\"gpt-4o-mini\" = \"gpt-6-luna\"`."),
    key!(admission.slots, Positive, "Turns that run at once."),
    key!(admission.queue, Count, "Requests that wait for a slot; more is a 429. One key, and all `batch` requests together, get at most half of it; where it is full, a key with nothing in it takes the newest place of the key with most."),
    key!(admission.queue_timeout, SpanOrZero, "Longest wait for a slot; more is a 429."),
    key!(upstream.reserve_percent, Percent, "Share of the account's usage windows that is left to the owner's own Codex: past `100 - reserve_percent` new calls are a 429 `usage_limit_reached`."),
    key!(upstream.refresh, Span, "The account's windows are asked for again when a call comes and they are this old; every answer tells them too."),
    key!(breaker.mode, BreakerModeName, "The circuit breaker over the backend's failures: `enforce` refuses calls while it is open (503 `upstream_unavailable`), `observe` only tells that it would, `off` does not count."),
    key!(breaker.failures, Positive, "Failures within `breaker.window` that open it, at the least."),
    key!(breaker.failure_percent, Percent, "Share of the window's calls that must have failed, percent."),
    key!(breaker.window, Span, "How far back calls count."),
    key!(breaker.open, Span, "How long it stays open before calls probe the backend."),
    key!(breaker.probes, Positive, "Probes at once; as many must succeed to close it, and one failure opens it again."),
    key!(fallback.base_url, BaseUrl, "An OpenAI-compatible server, up to and with `/v1`, for calls that the app-server cannot take; none by default."),
    key!(fallback.api_key, Secret, "Its API key; the caller's is never sent there.").secret(),
    key!(fallback.api_key_file, OptionalFile, "File that holds `api_key`."),
    key!(fallback.model, OptionalText, "What it calls the model, where `fallback.models` does not say; else the client's name is passed on."),
    key!(fallback.models, Map, "What it calls each model of the client's: `\"gpt-6-luna\" = \"llama3.2\"`."),
    key!(fallback.task_classes, Names, "Classes of tasks that it may take; empty is every call."),
    key!(fallback.on, Reasons, "When it takes a call: `down` (no app-server, or the breaker is open), `logged_out`, `used_up`."),
    key!(fallback.timeout, Span, "Its whole answer must be there by then."),
    key!(fallback.max_calls, Positive, "Calls it has at once; one more fails as it would without it."),
    key!(turn.deadline, Span, "From dispatch to the end of the answer; more is a 504."),
    key!(turn.idle_timeout, Span, "Longest silence of the app-server; more is a 504."),
    key!(turn.max_output_bytes, Size, "All text of one answer; more is a 502."),
    key!(turn.fail_fast, Switch, "Whether the app-server's first retry ends the call with the error that it would retry."),
    key!(turn.max_retry_wait, SpanOrZero, "How long the app-server may retry, from its first retry on, while no attempt answers; more ends the call with the last attempt's error. `x-codex-bridge-max-wait` of a request shortens it."),
    key!(turn.usage_timeout, SpanOrZero, "How long usage that is late is waited for."),
    key!(turn.status_check, Span, "After this long without an event the thread's status is read: an idle one has ended."),
    key!(stream.keep_alive, Span, "A comment line in the stream after this long without an event."),
    key!(stream.head_timeout, SpanOrZero, "How long the response head waits for the first event, so that an early failure is a status code."),
    key!(stream.buffer_bytes, Size, "Text held for a client slower than the model; deltas merge."),
    key!(stream.stall_timeout, Span, "A client that takes nothing for this long while events wait is dropped."),
    key!(continuation.ttl, Span, "A response can be continued this long after its last use."),
    key!(continuation.max_records, Positive, "Most responses kept in memory; past it the least recently used goes."),
    key!(continuation.max_bytes, Size, "Most bytes of items kept in memory; past it the least recently used response goes. A chain that takes more than half of it on its own is continued from the store alone."),
    key!(continuation.max_chain_items, ChainItems, "Most items of a chain, the new ones included, 1 to 10000; more is a 400 `chain_too_long`."),
    key!(continuation.keep_unstored, Switch, "Whether a `store: false` response can be continued, from memory alone."),
    key!(continuation.on_account_change, AccountChange, "A chain that was begun under another login: `fail` is a 400, `rebuild` goes on without its encrypted reasoning."),
    key!(continuation.store_timeout, Span, "The response store must have answered by then; a slower one counts as down."),
    key!(continuation.warm_threads, Count, "Idle threads kept loaded for their continuation (1 to 1.7 MB each in the app-server, and with a login one upstream socket)."),
    key!(continuation.warm_ttl, Span, "How long an idle thread is kept loaded."),
    key!(continuation.spare_threads, Count, "Threads started ahead of the call that will use them."),
    key!(continuation.spare_ttl, Span, "How long an unused spare thread is kept."),
    key!(continuation.affinity, Switch, "Whether a request that brings its whole conversation goes on in the idle thread that holds its beginning."),
    key!(continuation.templates, Count, "Long beginnings of one-shot calls that are kept on disk while they are used, so that the calls share a prompt cache key; 0 keeps none.")
        .default("8; 0 with `store.encryption_key`, which does not cover them"),
    key!(continuation.template_tokens, Count, "How long such a beginning must be, tokens, about."),
    key!(continuation.template_ttl, Span, "A beginning that was not used for this long is deleted."),
    key!(continuation.held_turns, Count, "Turns held open for their tools' outputs; past it the oldest is given up, and rebuilt when the outputs come."),
    key!(continuation.held_ttl, Span, "How long a turn is held open for its tools' outputs."),
    key!(store.backend, BackendName, "Where responses are kept: `embedded` is one file that outlives the process, `redis` a Redis or Valkey server that several bridges may share, `memory` is gone with the process."),
    key!(store.path, OptionalFile, "The embedded store's file.")
        .default("`responses.redb` in `state.dir`"),
    key!(store.max_records, Positive, "Most responses kept (`memory`, `embedded`); past it the least recently used goes."),
    key!(store.max_bytes, Size, "Most bytes they take (`memory`, `embedded`); past it the least recently used goes. A chain that takes more than half of it on its own is continued from memory alone."),
    key!(store.max_document_bytes, Size, "Most bytes of documents: conversations, stored chat completions, background responses, files, batches (`memory`, `embedded`); past it none is taken, 503 `store_full`."),
    key!(store.document_ttl, Span, "A document lives this long after its last change."),
    key!(store.redis_url, RedisUrl, "`redis://[user:password@]host[:port][/db]`, `rediss://…` for TLS, or `unix:///path`, for `redis`.")
        .secret(),
    key!(store.redis_prefix, RedisPrefix, "What every key on the server begins with: bridges with the same one share their responses."),
    key!(store.encryption_key, CipherKey, "32 bytes in hex or base64: responses on disk or on the server are encrypted with it; templates, generated images and responses stored before it was set are not.")
        .secret(),
    key!(store.encryption_key_file, OptionalFile, "File that holds `encryption_key`."),
    key!(background.max_jobs, Positive, "Background responses that have not ended; one more is a 429."),
    key!(background.request_bytes, Size, "All their requests together; past it one more is a 429."),
    key!(background.queue_timeout, Span, "How long one may wait for a slot, or for an app-server; after it, it has failed."),
    key!(background.log_bytes, Size, "All their events that are kept for streams; past it the oldest of those that have ended go, and a later stream of it is a 400 `stream_expired`."),
    key!(background.keep, Span, "Their events are kept this long after the end."),
    key!(background.lease, Span, "With `store.backend = \"redis\"`: a bridge that was not heard of for this long is gone, and another one takes up what it had."),
    key!(batches.concurrency, Positive, "Rows of batches that run at once, of all batches together; always one less than `admission.slots`, where there is more than one."),
    key!(batches.max_open, Positive, "Batches that have not ended; one more is a 429."),
    key!(batches.max_rows, Positive, "Requests of one batch; with more it fails."),
    key!(batches.window, Span, "A batch has expired this long after it was made: what has no result then gets none. The API calls it `24h` whatever it is."),
    key!(batches.max_file_bytes, Size, "Largest uploaded file; more is a 413. Uploads are bound by this in place of `server.max_body_bytes`."),
    key!(batches.max_files_bytes, Size, "All files together, results too; past it an upload is a 503 `store_full`. Results are bound by `store.max_document_bytes` alone: a batch waits for room."),
    key!(batches.upload_timeout, Span, "An upload must be whole by then."),
    key!(websocket.max_age, Span, "How long a WebSocket may be used; after it, one that has nothing to tell is closed, with `websocket_connection_limit_reached`."),
    key!(websocket.idle_timeout, Span, "A WebSocket on which nothing was asked or answered for this long is closed."),
    classes::KEY,
    key!(requests.strict_params, Switch, "Whether request fields without effect are a 400 `unsupported_parameter`; else they are named in a header."),
    key!(requests.unknown_tools, OnUnknownTools, "Tools of types that are not served: `refuse` is a 400, `ignore` leaves them out and names them in a header."),
    key!(images.fetch, Switch, "Whether images given by `https:` address are fetched."),
    key!(images.max_bytes, Size, "Largest image, fetched or inline."),
    key!(images.timeout, Span, "One image must be here by then."),
    key!(images.max_redirects, Count, "Redirects followed; each target is checked again."),
    key!(images.allow_private, Switch, "Whether images may be fetched from private and loopback addresses."),
    key!(files.fetch, Switch, "Whether files given by `https:` address are fetched."),
    key!(files.max_bytes, Size, "Largest file, fetched or inline."),
    key!(files.max_text_bytes, Size, "Text of all files of one request; more is a 400."),
    key!(files.max_pages, Positive, "Pages of one PDF; more is a 400."),
    key!(files.timeout, Span, "One file must be fetched by then."),
    key!(files.max_redirects, Count, "Redirects followed; each target is checked again."),
    key!(files.allow_private, Switch, "Whether files may be fetched from private and loopback addresses."),
    key!(files.pdf_timeout, Span, "One PDF must be read by then; more is a 400."),
    key!(files.pdf_memory, Size, "Memory of the process that reads one PDF (at most two at once); more is a 400."),
    key!(audio.max_bytes, Size, "All audio of one request; more is a 400."),
    key!(shutdown.drain, SpanOrZero, "On the way down, what runs may finish within this; the rest is interrupted."),
    key!(log.format, Format, "`text` for people, `json` for machines; always on standard error."),
    key!(log.filter, Filter, "What is logged: `info`, `info,codex_bridge=debug`, …").also("RUST_LOG"),
    key!("state.dir", (state_dir), Folder, "Private Codex home, runtime files. One bridge per folder.")
        .default("`$XDG_STATE_HOME/codex-bridge`"),
];

/// One bearer token, named `default`.
pub(super) const NATIVE_TOKEN: &str = "CODEX_NATIVE_API_AUTH_TOKEN";

pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

pub(super) fn is_section(name: &str) -> bool {
    sections().any(|section| section == name)
}

/// What to say of a key that is none of ours.
pub(super) fn unknown_key(name: &str) -> String {
    let last = name.rsplit('.').next().unwrap_or(name);
    let moved = KEYS.iter().map(|key| key.name).find(|key| key.rsplit('.').next() == Some(last));
    said("key", moved.or_else(|| nearest(name, KEYS.iter().map(|key| key.name))))
}

/// What to say of a section that is none of ours.
pub(super) fn unknown_section(name: &str) -> String {
    said("section", nearest(name, sections()))
}

/// What to say of a `CODEX_BRIDGE_…` variable that is none of ours.
pub(super) fn unknown_variable(name: &str) -> String {
    // Without what all have in common, which makes everything look alike.
    let bare = name.strip_prefix(PREFIX).unwrap_or(name);
    let variables: Vec<String> =
        KEYS.iter().map(|key| key.name.replace('.', "__").to_ascii_uppercase()).collect();
    let known = || variables.iter().map(String::as_str);
    let moved = known().find(|known| known.rsplit("__").next() == Some(bare));
    let meant = moved.or_else(|| nearest(bare, known())).map(|meant| format!("{PREFIX}{meant}"));
    said("variable", meant.as_deref())
}

fn sections() -> impl Iterator<Item = &'static str> {
    KEYS.iter().filter_map(|key| key.name.split('.').next())
}

fn said(what: &str, suggestion: Option<&str>) -> String {
    match suggestion {
        Some(suggestion) => format!("unknown {what}; did you mean {suggestion}?"),
        None => format!("unknown {what}; `codex-bridge config show` lists all keys"),
    }
}

/// The closest name, if it is close enough to be meant.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    names
        .map(|candidate| (strsim::normalized_damerau_levenshtein(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, candidate)| candidate)
}
