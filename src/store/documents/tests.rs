use super::testing::Server;
use super::*;

const KIND: DocumentKind = DocumentKind::Conversation;
const ALL: Page<'_> = Page { after: None, limit: 1000, descending: false };

/// Of one store, as two bridges have it.
fn two() -> (Server, [Documents; 2]) {
    let server = Server::default();
    let documents = [(); 2].map(|()| server.documents());
    (server, documents)
}

fn document(body: &str) -> Document {
    Document { id: "a".into(), owner: KeyId::new("me"), expires_at: None, body: body.into() }
}

fn entry(id: String) -> Entry {
    Entry { id, body: Vec::new() }
}

async fn ids(documents: &Documents) -> Vec<String> {
    let listed = documents.entries(KIND, "a", ALL).await.unwrap().unwrap();
    listed.found.into_iter().map(|entry| entry.id).collect()
}

#[tokio::test]
async fn what_two_bridges_add_at_once_is_all_there_in_order() {
    let (_, [a, b]) = two();
    a.put(KIND, &document("")).await.unwrap();
    let add = async |documents: &Documents, name: &str| {
        for n in 100..150 {
            assert_eq!(documents.append(KIND, "a", vec![entry(format!("{name}{n}"))]).await, Ok(true));
        }
    };
    tokio::join!(add(&a, "a"), add(&b, "b"));
    let ids = ids(&a).await;
    assert_eq!(ids.len(), 100);
    for name in ["a", "b"] {
        let own: Vec<_> = ids.iter().filter(|id| id.starts_with(name)).collect();
        assert!(own.is_sorted() && own.len() == 50, "{own:?}");
    }
}

#[tokio::test]
async fn a_bridge_whose_clock_is_behind_adds_at_the_end() {
    let (kv, [a, b]) = two();
    a.put(KIND, &document("")).await.unwrap();
    // An hour ahead, of which the other's clock knows nothing.
    let ahead = micros(SystemTime::now() + Duration::from_secs(3600));
    kv.write_if(Vec::new(), vec![Change::Put(mark(KIND, "a"), ahead.to_be_bytes().to_vec())]).await.unwrap();
    a.append(KIND, "a", vec![entry("z".into()), entry("y".into())]).await.unwrap();
    b.append(KIND, "a", vec![entry("x".into())]).await.unwrap();
    a.append(KIND, "a", vec![entry("w".into())]).await.unwrap();
    assert_eq!(ids(&a).await, ["z", "y", "x", "w"]);
}

#[tokio::test]
async fn what_is_added_to_a_document_as_it_is_deleted_goes_with_it_or_is_refused() {
    let (kv, [a, b]) = two();
    for n in 0..20 {
        a.put_with(KIND, &document(""), &[entry("first".into())]).await.unwrap();
        let (added, deleted) = tokio::join!(
            async {
                for _ in 0..n {
                    tokio::task::yield_now().await;
                }
                a.append(KIND, "a", vec![entry("late".into())]).await
            },
            b.delete(KIND, "a")
        );
        assert!(added.is_ok() && deleted == Ok(true), "{added:?} {deleted:?}");
        assert_eq!(kv.bytes(), Some(0), "something is left behind");
    }
}

#[tokio::test]
async fn of_two_that_change_an_entry_by_what_it_says_the_second_sees_the_firsts() {
    let (_, [a, b]) = two();
    a.put(KIND, &document("")).await.unwrap();
    let count = async |documents: &Documents| {
        for _ in 0..30 {
            let more = |said: Option<&[u8]>| Some(vec![said.map_or(0, |said| said[0]) + 1]);
            documents.change_entry(KIND, "a", "count", more).await.unwrap();
        }
    };
    tokio::join!(count(&a), count(&b));
    assert_eq!(a.entry(KIND, "a", "count").await.unwrap().unwrap().body, [60]);

    let is_sixty = |said: &[u8]| said == [60];
    assert_eq!(a.replace_if(KIND, &document("new"), "count", is_sixty).await, Ok(true));
    b.append(KIND, "a", vec![Entry { id: "count".into(), body: vec![61] }]).await.unwrap();
    assert_eq!(a.replace_if(KIND, &document("newer"), "count", is_sixty).await, Ok(false));
    assert_eq!(a.replace_if(KIND, &document("newer"), "none", |_| true).await, Ok(false));
    assert_eq!(a.get(KIND, "a").await.unwrap().unwrap().body, b"new");
}

#[tokio::test]
async fn a_page_is_filled_up_past_what_is_not_wanted() {
    let (_, [a, _]) = two();
    let many: Vec<Entry> = (0..600).map(|n| entry(format!("{n}"))).collect();
    a.put_with(KIND, &document(""), &many).await.unwrap();
    let wanted = |entry: Entry| entry.id.ends_with("99").then_some(entry.id);
    let page = Page { limit: 4, ..ALL };
    let listed = a.entries_as(KIND, "a", page, wanted).await.unwrap().unwrap();
    assert_eq!((listed.found.join(" ").as_str(), listed.has_more), ("99 199 299 399", true));
    let page = Page { after: Some("399"), ..page };
    let listed = a.entries_as(KIND, "a", page, wanted).await.unwrap().unwrap();
    assert_eq!((listed.found.join(" ").as_str(), listed.has_more), ("499 599", false));
}

#[tokio::test]
async fn a_document_that_cannot_be_read_is_left_out_of_the_list() {
    let (kv, [a, _]) = two();
    a.put(KIND, &document("")).await.unwrap();
    a.put(KIND, &Document { id: "b".into(), ..document("") }).await.unwrap();
    kv.write_if(Vec::new(), vec![Change::Put(key(KIND, "a").unwrap(), b"?".to_vec())]).await.unwrap();
    let listed = a.list(KIND, &KeyId::new("me"), ALL).await.unwrap().unwrap();
    assert_eq!(listed.found.iter().map(|found| found.id.as_str()).collect::<Vec<_>>(), ["b"]);
}
