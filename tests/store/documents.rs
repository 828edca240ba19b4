//! Documents, alike on every backend.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use codex_bridge::config::{StoreBackend, StoreConfig};
use codex_bridge::model::KeyId;
use codex_bridge::store::{
    Document, DocumentKind as Kind, Documents, Entry, Page, StoreError, open_documents,
};

use crate::records::{HOUR, World, key};

macro_rules! on_all_backends {
    ($($test:ident)+) => { $(
        mod $test {
            use super::*;

            #[tokio::test]
            async fn memory() {
                super::$test(Shelf::of(StoreBackend::Memory, None).await).await;
            }

            #[tokio::test]
            async fn embedded() {
                super::$test(Shelf::of(StoreBackend::Embedded, None).await).await;
            }

            #[tokio::test]
            async fn redis() {
                super::$test(Shelf::of(StoreBackend::Redis, None).await).await;
            }

            #[tokio::test]
            async fn embedded_sealed() {
                super::$test(Shelf::of(StoreBackend::Embedded, Some(1)).await).await;
            }

            #[tokio::test]
            async fn redis_sealed() {
                super::$test(Shelf::of(StoreBackend::Redis, Some(1)).await).await;
            }
        }
    )+ };
}

on_all_backends! {
    a_document_comes_back_as_it_was_put_last
    documents_are_listed_for_their_owner_page_by_page
    all_documents_of_a_kind_are_found_whoevers_they_are
    entries_keep_their_order_and_can_be_taken_out
    a_deleted_document_takes_its_entries_along
    what_has_expired_is_not_given_and_is_swept
    what_is_no_id_is_not_there
    many_writers_at_once_lose_nothing
    what_is_not_there_is_not_changed
}

/// A server must answer by then.
const LIMIT: Duration = Duration::from_secs(10);

struct Shelf {
    world: World,
    documents: Arc<Documents>,
}

impl Shelf {
    async fn of(backend: StoreBackend, encryption: Option<u8>) -> Self {
        let encryption_key = encryption.map(key);
        Self::with(StoreConfig { backend, encryption_key, ..StoreConfig::default() }).await
    }

    async fn with(config: StoreConfig) -> Self {
        let world = World::with(config).await;
        let documents = open_documents(&world.config, LIMIT, world.folder.path(), &world.tasks).await;
        Self { world, documents: documents.expect("documents") }
    }

    async fn put(&self, id: &str, owner: &str) {
        self.documents.put(Kind::Conversation, &document(id, owner, None)).await.expect("a put");
    }

    async fn append(&self, id: &str, entries: &[&str]) {
        let entry = |id: &&str| Entry { id: (*id).to_owned(), body: format!("body of {id}").into_bytes() };
        let entries = entries.iter().map(entry).collect();
        assert_eq!(self.documents.append(Kind::Conversation, id, entries).await, Ok(true));
    }

    /// The ids of a page, and whether more follows.
    async fn listed(&self, owner: &str, page: Page<'_>) -> Option<(Vec<String>, bool)> {
        let listed =
            self.documents.list(Kind::Conversation, &KeyId::new(owner), page).await.expect("a list")?;
        Some((listed.found.into_iter().map(|found| found.id).collect(), listed.has_more))
    }

    async fn entries(&self, id: &str, page: Page<'_>) -> Option<(Vec<String>, bool)> {
        let listed = self.documents.entries(Kind::Conversation, id, page).await.expect("entries")?;
        Some((listed.found.into_iter().map(|found| found.id).collect(), listed.has_more))
    }

    async fn get(&self, id: &str) -> Option<Document> {
        self.documents.get(Kind::Conversation, id).await.expect("a look")
    }
}

fn document(id: &str, owner: &str, expires_at: Option<SystemTime>) -> Document {
    Document {
        id: id.to_owned(),
        owner: KeyId::new(owner),
        expires_at,
        body: format!("{id} of {owner}").into_bytes(),
    }
}

const ALL: Page<'_> = Page { after: None, limit: 100, descending: false };

fn names(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

async fn a_document_comes_back_as_it_was_put_last(shelf: Shelf) {
    let later = SystemTime::UNIX_EPOCH + Duration::from_micros(4_000_000_000_000_001);
    let first = Document { body: b"\x00\xffanything".to_vec(), ..document("a", "me", Some(later)) };
    shelf.documents.put(Kind::File, &first).await.expect("a put");
    assert_eq!(shelf.documents.get(Kind::File, "a").await, Ok(Some(first.clone())));
    assert_eq!(shelf.get("a").await, None, "another kind");

    let second = Document { expires_at: None, body: Vec::new(), ..first };
    shelf.documents.put(Kind::File, &second).await.expect("a put");
    assert_eq!(shelf.documents.get(Kind::File, "a").await, Ok(Some(second)));
    assert_eq!(shelf.documents.sweep(later + HOUR).await, Ok(0), "it no longer expires");
    if shelf.world.config.backend != StoreBackend::Memory {
        shelf.documents.close().await;
        assert!(matches!(shelf.documents.get(Kind::File, "a").await, Err(StoreError::Unavailable { .. })));
        let again =
            open_documents(&shelf.world.config, LIMIT, shelf.world.folder.path(), &shelf.world.tasks).await;
        let found = again.expect("documents").get(Kind::File, "a").await.expect("a look");
        assert_eq!(found.map(|found| found.body), Some(Vec::new()));
    }
}

async fn documents_are_listed_for_their_owner_page_by_page(shelf: Shelf) {
    for id in ["a", "b", "c", "d"] {
        shelf.put(id, "me").await;
    }
    shelf.put("x", "other").await;
    // Put again, it keeps its place.
    shelf.put("b", "me").await;
    assert_eq!(shelf.listed("me", ALL).await, Some((names(&["a", "b", "c", "d"]), false)));
    assert_eq!(shelf.listed("other", ALL).await, Some((names(&["x"]), false)));
    assert_eq!(shelf.listed("nobody", ALL).await, Some((Vec::new(), false)));

    let page = |after, limit, descending| Page { after, limit, descending };
    assert_eq!(shelf.listed("me", page(None, 2, false)).await, Some((names(&["a", "b"]), true)));
    assert_eq!(shelf.listed("me", page(Some("b"), 2, false)).await, Some((names(&["c", "d"]), false)));
    assert_eq!(shelf.listed("me", page(None, 3, true)).await, Some((names(&["d", "c", "b"]), true)));
    assert_eq!(shelf.listed("me", page(Some("b"), 3, true)).await, Some((names(&["a"]), false)));
    for unknown in ["x", "nothing"] {
        assert_eq!(shelf.listed("me", page(Some(unknown), 2, false)).await, None, "{unknown}");
    }
}

async fn all_documents_of_a_kind_are_found_whoevers_they_are(shelf: Shelf) {
    for (id, owner) in [("c", "me"), ("a", "other"), ("b", "me")] {
        shelf.put(id, owner).await;
        shelf.append(id, &["entry"]).await;
    }
    let expired = document("aa", "me", Some(SystemTime::now() - HOUR));
    shelf.documents.put(Kind::Conversation, &expired).await.expect("a put");
    shelf.documents.put(Kind::File, &document("d", "me", None)).await.expect("a put");
    let all = async |after, limit| {
        let listed = shelf.documents.all(Kind::Conversation, after, limit).await.expect("a list");
        let found: Vec<_> =
            listed.found.into_iter().map(|found| (found.id, found.owner.as_str().to_owned())).collect();
        (found, listed.has_more)
    };
    let named = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
        pairs.iter().map(|(id, owner)| ((*id).to_owned(), (*owner).to_owned())).collect()
    };
    assert_eq!(all(None, 10).await, (named(&[("a", "other"), ("b", "me"), ("c", "me")]), false));
    assert_eq!(all(None, 1).await, (named(&[("a", "other")]), true));
    assert_eq!(all(Some("a"), 1).await, (named(&[("b", "me")]), true));
    assert_eq!(all(Some("gone"), 10).await, (Vec::new(), false));
    assert_eq!(all(Some("bb"), 10).await, (named(&[("c", "me")]), false));
}

async fn entries_keep_their_order_and_can_be_taken_out(shelf: Shelf) {
    shelf.put("a", "me").await;
    shelf.put("aa", "me").await;
    shelf.append("a", &["one", "two", "three"]).await;
    shelf.append("aa", &["else"]).await;
    shelf.append("a", &["four", "two"]).await;
    assert_eq!(shelf.entries("a", ALL).await, Some((names(&["one", "two", "three", "four"]), false)));
    let page = Page { after: Some("four"), limit: 2, descending: true };
    assert_eq!(shelf.entries("a", page).await, Some((names(&["three", "two"]), true)));

    let entry = |id: &'static str| shelf.documents.entry(Kind::Conversation, "a", id);
    assert_eq!(entry("two").await.expect("a look").expect("an entry").body, b"body of two");
    assert_eq!(entry("else").await, Ok(None));
    assert_eq!(shelf.documents.remove_entry(Kind::Conversation, "a", "two").await, Ok(true));
    assert_eq!(shelf.documents.remove_entry(Kind::Conversation, "a", "two").await, Ok(false));
    assert_eq!(entry("two").await, Ok(None));
    assert_eq!(shelf.entries("a", ALL).await, Some((names(&["one", "three", "four"]), false)));
    assert_eq!(shelf.entries("a", Page { after: Some("two"), ..ALL }).await, None);
}

async fn a_deleted_document_takes_its_entries_along(shelf: Shelf) {
    shelf.put("a", "me").await;
    let many: Vec<String> = (0..600).map(|n| format!("entry-{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    shelf.append("a", &many).await;
    assert_eq!(shelf.documents.delete(Kind::Conversation, "a").await, Ok(true));
    assert_eq!(shelf.documents.delete(Kind::Conversation, "a").await, Ok(false));
    assert_eq!(shelf.get("a").await, None);
    assert_eq!(shelf.listed("me", ALL).await, Some((Vec::new(), false)));
    shelf.put("a", "me").await;
    assert_eq!(shelf.entries("a", ALL).await, Some((Vec::new(), false)));
    shelf.documents.delete(Kind::Conversation, "a").await.expect("a deletion");
    if let Some(bytes) = shelf.documents.bytes() {
        assert_eq!(bytes, 0, "something is left behind");
    }
}

async fn what_has_expired_is_not_given_and_is_swept(shelf: Shelf) {
    let now = SystemTime::now();
    for (id, expires_at) in [("old", Some(now - HOUR)), ("new", Some(now + HOUR)), ("ever", None)] {
        let one = Entry { id: "one".into(), body: Vec::new() };
        let document = document(id, "me", expires_at);
        shelf.documents.put_with(Kind::Conversation, &document, &[one]).await.expect("a put");
    }
    assert_eq!(shelf.get("old").await, None);
    assert_eq!(shelf.listed("me", ALL).await, Some((names(&["new", "ever"]), false)));
    let first = Page { limit: 1, ..ALL };
    assert_eq!(shelf.listed("me", first).await, Some((names(&["new"]), true)), "a page is filled up");
    assert_eq!(shelf.documents.sweep(now).await, Ok(1));
    assert_eq!(shelf.documents.sweep(now).await, Ok(0));
    assert_eq!(shelf.entries("old", ALL).await, Some((Vec::new(), false)));
    assert_eq!(shelf.entries("new", ALL).await, Some((names(&["one"]), false)));
}

async fn what_is_no_id_is_not_there(shelf: Shelf) {
    shelf.put("a", "me").await;
    shelf.append("a", &["one"]).await;
    let long = "a".repeat(300);
    for id in ["", "\0", "a\0one", "../a", long.as_str()] {
        assert_eq!(shelf.get(id).await, None, "{id:?}");
        assert_eq!(shelf.documents.delete(Kind::Conversation, id).await, Ok(false), "{id:?}");
        assert_eq!(shelf.documents.entry(Kind::Conversation, "a", id).await, Ok(None), "{id:?}");
        assert_eq!(shelf.entries("a", Page { after: Some(id), ..ALL }).await, None, "{id:?}");
    }
    assert!(shelf.documents.put(Kind::File, &document("a\0", "me", None)).await.is_err());
}

async fn many_writers_at_once_lose_nothing(shelf: Shelf) {
    shelf.put("a", "me").await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let documents = Arc::clone(&shelf.documents);
        writers.spawn(async move {
            for n in 0..10 {
                let id = format!("{writer}-{n}");
                documents.put(Kind::File, &document(&id, "me", None)).await.expect("a put");
                let entry = Entry { id, body: Vec::new() };
                documents.append(Kind::Conversation, "a", vec![entry]).await.expect("an append");
            }
        });
    }
    writers.join_all().await;
    let (ids, _) = shelf.entries("a", ALL).await.expect("entries");
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 80);
    for writer in 0..8 {
        let own: Vec<_> = ids.iter().filter(|id| id.starts_with(&format!("{writer}-"))).cloned().collect();
        let in_order: Vec<_> = (0..10).map(|n| format!("{writer}-{n}")).collect();
        assert_eq!(own, in_order);
    }
    let files = shelf.documents.list(Kind::File, &KeyId::new("me"), ALL).await.expect("a list");
    assert_eq!(files.expect("a page").found.len(), 80);
}

async fn what_is_not_there_is_not_changed(shelf: Shelf) {
    let (documents, kind) = (&shelf.documents, Kind::Conversation);
    let change_all = async || {
        let entry = || Entry { id: "one".into(), body: b"x".to_vec() };
        [
            documents.append(kind, "a", vec![entry()]).await.expect("an append"),
            documents.replace(kind, &document("a", "me", None)).await.expect("a replacement"),
            documents.replace_if(kind, &document("a", "me", None), "one", |_| true).await.expect("the same"),
            documents.touch(kind, "a", Some(SystemTime::now() + HOUR)).await.expect("a touch"),
            documents.change_entry(kind, "a", "one", |_| Some(b"y".to_vec())).await.expect("a change"),
        ]
    };
    assert_eq!(change_all().await, [false; 5]);
    shelf.put("a", "me").await;
    assert_eq!(change_all().await, [true; 5]);
    let found = shelf.get("a").await.expect("the document");
    assert!(found.expires_at.is_some_and(|at| at > SystemTime::now()), "{found:?}");
    assert_eq!(found.body, b"a of me");
    let entry = documents.entry(kind, "a", "one").await.expect("a look").expect("an entry");
    assert_eq!(entry.body, b"y");
    documents.delete(kind, "a").await.expect("a deletion");
    assert_eq!(change_all().await, [false; 5]);
    assert_eq!(documents.sweep(SystemTime::now() + 2 * HOUR).await, Ok(0), "nothing is left of it");
    let expired = document("a", "me", Some(SystemTime::now() - HOUR));
    documents.put(kind, &expired).await.expect("a put");
    assert_eq!(change_all().await, [false; 5], "its time is up");
}

#[tokio::test]
async fn two_bridges_change_one_document_on_a_server() {
    let shelf = Shelf::of(StoreBackend::Redis, None).await;
    let open = || open_documents(&shelf.world.config, LIMIT, shelf.world.folder.path(), &shelf.world.tasks);
    shelf.put("a", "me").await;
    let mut bridges = tokio::task::JoinSet::new();
    for bridge in ["a", "b"] {
        let documents = open().await.expect("documents");
        bridges.spawn(async move {
            for n in 10..40 {
                let entries = vec![Entry { id: format!("{bridge}{n}"), body: Vec::new() }];
                assert_eq!(documents.append(Kind::Conversation, "a", entries).await, Ok(true));
                documents.put(Kind::Conversation, &document("a", "me", None)).await.expect("a put");
                let gone = format!("{bridge}{n}");
                let removed = documents.remove_entry(Kind::Conversation, "a", &gone);
                if n % 2 == 0 {
                    assert_eq!(removed.await, Ok(true));
                }
            }
        });
    }
    bridges.join_all().await;
    let (ids, _) = shelf.entries("a", ALL).await.expect("entries");
    for bridge in ["a", "b"] {
        let own: Vec<_> = ids.iter().filter(|id| id.starts_with(bridge)).cloned().collect();
        assert_eq!(own, (10..40).filter(|n| n % 2 == 1).map(|n| format!("{bridge}{n}")).collect::<Vec<_>>());
    }
    assert_eq!(shelf.documents.delete(Kind::Conversation, "a").await, Ok(true));
    assert_eq!(shelf.entries("a", ALL).await, Some((Vec::new(), false)));
}

#[tokio::test]
async fn a_server_that_hangs_is_waited_for_no_longer_than_it_may() {
    let shelf = Shelf::of(StoreBackend::Redis, None).await;
    let limit = Duration::from_millis(300);
    let folder = shelf.world.folder.path();
    let documents = open_documents(&shelf.world.config, limit, folder, &shelf.world.tasks).await;
    let documents = documents.expect("documents");
    let pid = shelf.world.server.as_ref().expect("a server").pid();
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("a signal");
    let kept = document("a", "me", None);
    let put = documents.put(Kind::Conversation, &kept);
    let put = tokio::time::timeout(Duration::from_secs(20), put).await.expect("an end");
    assert!(matches!(put, Err(StoreError::Unavailable { .. })), "{put:?}");
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("a signal");
    let back = async {
        while documents.put(Kind::Conversation, &document("b", "me", None)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), back).await.expect("the server is used again");
}

#[tokio::test]
async fn past_its_bytes_nothing_is_put_and_nothing_is_lost() {
    let max_document_bytes = 10_000;
    let config =
        StoreConfig { backend: StoreBackend::Embedded, max_document_bytes, ..StoreConfig::default() };
    let shelf = Shelf::with(config).await;
    shelf.put("kept", "me").await;
    let large = Document { body: vec![0; 20_000], ..document("large", "me", None) };
    let refused = shelf.documents.put(Kind::File, &large).await;
    assert!(matches!(refused, Err(StoreError::Refused { .. })), "{refused:?}");
    assert!(shelf.get("kept").await.is_some());
}

#[tokio::test]
async fn a_damaged_file_is_moved_aside() {
    let shelf = Shelf::of(StoreBackend::Embedded, None).await;
    shelf.put("a", "me").await;
    shelf.documents.close().await;
    let folder = shelf.world.folder.path();
    std::fs::write(folder.join("documents.redb"), b"redb, but no longer").expect("damage");
    let again =
        open_documents(&shelf.world.config, LIMIT, folder, &shelf.world.tasks).await.expect("documents");
    assert_eq!(again.get(Kind::Conversation, "a").await, Ok(None));
    again.put(Kind::Conversation, &document("b", "me", None)).await.expect("a put");
    let aside = std::fs::read_dir(folder).expect("the folder").filter_map(Result::ok);
    assert_eq!(aside.filter(|file| file.file_name().to_string_lossy().contains(".corrupt-")).count(), 1);
    let file = std::fs::metadata(folder.join("documents.redb")).expect("the file");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&file.permissions()) & 0o777, 0o600);
}

#[tokio::test]
async fn another_key_reads_nothing() {
    let shelf = Shelf::of(StoreBackend::Redis, Some(1)).await;
    shelf.put("a", "me").await;
    let config = StoreConfig { encryption_key: Some(key(2)), ..shelf.world.config.clone() };
    let other = open_documents(&config, LIMIT, shelf.world.folder.path(), &shelf.world.tasks)
        .await
        .expect("documents");
    let found = other.get(Kind::Conversation, "a").await;
    assert!(matches!(found, Err(StoreError::Unreadable { .. })), "{found:?}");
}
