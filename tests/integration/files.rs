//! `/v1/files`: uploaded, listed, read, deleted; bounded, and nobody else's.

use std::time::Duration;

use codex_bridge::config::KeyLimits;
use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::errors::raw;
use crate::http::{Answer, BOUNDARY, Client, until};
use crate::keys;
use crate::spec::assert_valid;

pub(crate) async fn post(client: &Client, fields: &[(&str, &[u8])]) -> Answer {
    client.post_form("/v1/files", fields).await
}

/// A form that ends in its file, of which it says that so many bytes come.
fn begun_form(length: usize) -> String {
    let form = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"file\"\r\n\r\n");
    let length = form.len() + length;
    let head = "POST /v1/files HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    let kind = format!("content-type: multipart/form-data; boundary={BOUNDARY}\r\n");
    format!("{head}{kind}content-length: {length}\r\n\r\n{form}half")
}

/// An uploaded file of purpose `batch`.
pub(crate) async fn upload(client: &Client, content: &[u8]) -> Value {
    let file = post(client, &[("purpose", b"batch"), ("file", content)]).await.ok();
    assert_valid("OpenAIFile", &file);
    file
}

fn path(file: &Value) -> String {
    format!("/v1/files/{}", file["id"].as_str().expect("an id"))
}

async fn listed(client: &Client, query: &str) -> Value {
    let list = client.get(&format!("/v1/files{query}")).await.ok();
    assert_valid("ListFilesResponse", &list);
    list
}

fn ids(list: &Value) -> Vec<&str> {
    list["data"].as_array().expect("a list").iter().filter_map(|file| file["id"].as_str()).collect()
}

#[tokio::test]
async fn a_file_is_uploaded_listed_read_and_deleted() {
    let daemon = Daemon::start(|_| ()).await;
    let client = &daemon.client;
    // Several parts, and the purpose after the file.
    let large = b"abcdefghijklmnopqrstuvwxyz\n".repeat(52_000);
    let file = post(client, &[("file", &large), ("more", b"x"), ("purpose", b"batch")]).await.ok();
    assert_valid("OpenAIFile", &file);
    assert_eq!((&file["bytes"], &file["filename"]), (&json!(large.len()), &json!("rows.jsonl")));
    assert_eq!((&file["purpose"], &file["status"]), (&json!("batch"), &json!("processed")));
    let second = upload(client, b"{}").await;

    assert_eq!(client.get(&path(&file)).await.ok(), file);
    let content = client.get(&format!("{}/content", path(&file))).await;
    assert_eq!((content.status, content.text.as_bytes() == large), (200, true));
    assert_eq!(content.header("content-length"), Some(large.len().to_string().as_str()));

    let (first_id, second_id) = (file["id"].as_str().expect("an id"), second["id"].as_str().expect("an id"));
    assert_eq!(ids(&listed(client, "").await), [second_id, first_id]);
    assert_eq!(ids(&listed(client, "?order=asc").await), [first_id, second_id]);
    let page = listed(client, "?limit=1&purpose=batch").await;
    assert_eq!((ids(&page), &page["has_more"]), (vec![second_id], &json!(true)));
    let rest = listed(client, &format!("?limit=1&after={second_id}")).await;
    assert_eq!((ids(&rest), &rest["has_more"]), (vec![first_id], &json!(false)));
    assert_eq!(ids(&listed(client, "?purpose=batch_output").await), Vec::<&str>::new());
    assert_eq!(client.get("/v1/files?after=file-none").await.failure(), (400, "invalid_value".into()));

    let daemon = Box::pin(daemon.restart()).await;
    let client = &daemon.client;
    assert_eq!(client.get(&path(&file)).await.ok(), file, "over a restart");
    let deleted = client.delete(&path(&file)).await.ok();
    assert_valid("DeleteFileResponse", &deleted);
    assert_eq!(deleted["deleted"], true);
    for gone in [path(&file), format!("{}/content", path(&file))] {
        assert_eq!(client.get(&gone).await.failure(), (404, "file_not_found".into()));
    }
    assert_eq!(client.delete(&path(&file)).await.status, 404);
    daemon.finish().await;
}

/// The fields of a form.
type Parts<'a> = &'a [(&'a str, &'a [u8])];

#[tokio::test]
async fn what_a_form_gets_wrong_is_told_and_leaves_nothing() {
    let daemon = Daemon::start(|config| config.batches.max_file_bytes = 1000).await;
    let client = &daemon.client;
    let cases: [(Parts<'_>, _, _); 10] = [
        (&[("file", b"{}")], 400, "missing_required_parameter"),
        (&[("purpose", b"batch")], 400, "missing_required_parameter"),
        (&[("file", b"{}"), ("purpose", b"assistants")], 400, "unsupported_value"),
        (&[("purpose", b"user_data"), ("file", b"{}")], 400, "unsupported_value"),
        (&[("file", b"{}"), ("purpose", b"nothing")], 400, "invalid_value"),
        (&[("file", b""), ("purpose", b"batch")], 400, "empty_file"),
        (&[("file", &[b'x'; 1001]), ("purpose", b"batch")], 413, "request_too_large"),
        (&[("purpose", &[b'x'; 2000])], 400, "string_above_max_length"),
        (
            &[
                ("purpose", b"batch"),
                ("file", b"{}"),
                ("expires_after[anchor]", b"created_at"),
                ("expires_after[seconds]", b"5"),
            ],
            400,
            "integer_below_min_value",
        ),
        (
            &[("purpose", b"batch"), ("file", b"{}"), ("expires_after[seconds]", b"5000")],
            400,
            "invalid_value",
        ),
    ];
    for (fields, status, code) in cases {
        assert_eq!(post(client, fields).await.failure(), (status, code.into()));
    }
    let cut = raw(&daemon, begun_form("half".len()).as_bytes()).await;
    assert_eq!(cut.status, 400, "{}", cut.text);
    let json = client.post("/v1/files", &json!({})).await;
    assert_eq!(json.failure(), (415, "unsupported_media_type".into()));
    until("nothing is left", async || {
        let health = client.get("/v1/health").await.ok();
        (health["continuation"]["store"]["document_bytes"] == 0).then_some(())
    })
    .await;
    assert_eq!(ids(&listed(client, "").await), Vec::<&str>::new());

    let fields: [(&str, &[u8]); 4] = [
        ("purpose", b"batch"),
        ("file", b"{}"),
        ("expires_after[anchor]", b"created_at"),
        ("expires_after[seconds]", b"3600"),
    ];
    let file = post(client, &fields).await.ok();
    let lives = file["expires_at"].as_u64().zip(file["created_at"].as_u64());
    assert!(lives.is_some_and(|(end, begin)| (3600..3602).contains(&(end - begin))), "{file}");
    daemon.finish().await;
}

#[tokio::test]
async fn files_are_bound_in_number_of_bytes_and_time() {
    let daemon = Daemon::start(|config| {
        config.batches.max_files_bytes = 10_000;
        config.batches.upload_timeout = Duration::from_millis(300);
    })
    .await;
    let client = &daemon.client;
    let first = upload(client, &[b'x'; 8000]).await;
    let refused = post(client, &[("purpose", b"batch"), ("file", &[b'x'; 8000])]).await;
    assert_eq!(refused.failure(), (503, "store_full".into()));
    assert_eq!(client.delete(&path(&first)).await.status, 200);
    upload(client, &[b'x'; 8000]).await;

    let slow = raw(&daemon, begun_form(5000).as_bytes()).await;
    assert_eq!(slow.failure(), (408, "request_timeout".into()));
    assert_eq!(ids(&listed(client, "").await).len(), 1);
    daemon.finish().await;
}

#[tokio::test]
async fn a_file_is_its_keys_alone() {
    let daemon = Daemon::start(|config| {
        for name in ["one", "two"] {
            keys::token(config, name, KeyLimits::default());
        }
    })
    .await;
    let [one, two] = ["secret-one", "secret-two"].map(|secret| keys::client(&daemon, secret));
    let file = upload(&one, b"{}").await;
    for path in [path(&file), format!("{}/content", path(&file))] {
        assert_eq!(two.get(&path).await.failure(), (404, "file_not_found".into()));
    }
    assert_eq!(two.delete(&path(&file)).await.status, 404);
    assert_eq!(ids(&listed(&two, "").await), Vec::<&str>::new());
    assert_eq!(ids(&listed(&one, "").await).len(), 1);
    daemon.finish().await;
}
