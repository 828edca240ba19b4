//! Files, pictures of tools and audio on the real app-server: what of them reaches the model, and that a hostile
//! one harms nobody.

use std::time::Duration;

use axum::Router;
use axum::http::header;
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use codex_bridge::tasks::Tasks;
use serde_json::{Value, json};

use crate::http::{Answer, until};
use crate::world::{FACES, On, World, bare};

/// A GIF of one pixel, which the app-server writes as a PNG.
const PIXEL: &str = "data:image/gif;base64,R0lGODlhAQABAIAAAAUEBAAAACwAAAAAAQABAAACAkQBADs=";

/// A PDF of these objects, numbered from 1; the first is the catalogue.
fn pdf_of(objects: &[Vec<u8>]) -> Vec<u8> {
    let mut pdf = b"%PDF-1.7\n".to_vec();
    let mut offsets = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        offsets.push(pdf.len());
        pdf.extend(format!("{} 0 obj\n", index + 1).bytes());
        pdf.extend(object);
        pdf.extend(b"\nendobj\n");
    }
    let start = pdf.len();
    pdf.extend(format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1).bytes());
    for offset in offsets {
        pdf.extend(format!("{offset:010} 00000 n \n").bytes());
    }
    let size = objects.len() + 1;
    pdf.extend(format!("trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n").bytes());
    pdf
}

fn stream(dictionary: &str, content: &[u8]) -> Vec<u8> {
    let head = format!("<< {dictionary} /Length {} >>\nstream\n", content.len());
    [head.as_bytes(), content, b"\nendstream"].concat()
}

const CATALOGUE: &str = "<< /Type /Catalog /Pages 2 0 R >>";
const PAGES: &str = "<< /Type /Pages /Kids [3 0 R] /Count 1 /MediaBox [0 0 600 800] >>";
const PAGE: &str = "<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /Font << /F 5 0 R >> >> >>";
const FONT: &str = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>";

/// A PDF of one page with this content.
fn pdf_with(dictionary: &str, content: &[u8]) -> Vec<u8> {
    let texts = [CATALOGUE, PAGES, PAGE].map(|text| text.as_bytes().to_vec());
    let [catalogue, pages, page] = texts;
    pdf_of(&[catalogue, pages, page, stream(dictionary, content), FONT.into()])
}

fn pdf(text: &str) -> Vec<u8> {
    pdf_with("", format!("BT /F 24 Tf 72 700 Td ({text}) Tj ET").as_bytes())
}

/// 258 zeros for every 13 bits: a block of one zero and its repetitions.
fn bomb(bytes: usize) -> Vec<u8> {
    let mut bits: Vec<bool> = vec![true, true, false];
    let mut code = |code: u32, length: u32| bits.extend((0..length).rev().map(|bit| code >> bit & 1 == 1));
    code(0x30, 8);
    for _ in 0..bytes / 258 {
        code(0xc5, 8);
        code(0, 5);
    }
    code(0, 7);
    let packed = bits.chunks(8).map(|byte| byte.iter().rev().fold(0, |all, bit| all << 1 | u8::from(*bit)));
    [0x78, 0x9c].into_iter().chain(packed).chain([0; 4]).collect()
}

fn input_file(name: &str, bytes: &[u8]) -> Value {
    json!({"type": "input_file", "filename": name, "file_data": STANDARD.encode(bytes)})
}

fn user(parts: &[Value]) -> Value {
    json!([{"role": "user", "content": parts}])
}

fn text(text: &str) -> Value {
    json!({"type": "input_text", "text": text})
}

async fn ask_about(world: &World, name: &str, bytes: &[u8]) -> Answer {
    world.ask(user(&[text("read it"), input_file(name, bytes)])).await
}

/// The code of a 400 that names the file.
fn refusal(answer: &Answer) -> String {
    let error = answer.error();
    assert_eq!(
        (answer.status, &error["param"]),
        (400, &json!("input[0].content[1].file_data")),
        "{}",
        answer.text
    );
    error["code"].as_str().expect("a code").to_owned()
}

/// Whether a process reads a PDF of at most so many pages: each daemon here has its own number.
fn is_reading(pages: usize) -> bool {
    let wanted = format!("extract-pdf\0--pages\0{pages}\0");
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let command = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("cmdline"));
    entries.map(command).any(|command| command.is_ok_and(|command| command.contains(&wanted)))
}

/// What the model was given the last time, without the ids.
fn last_input(world: &World) -> Value {
    bare(&world.seen().last().expect("a request").input)
}

/// A file's text without its two lines, which must be there.
fn between_lines<'a>(part: &'a Value, name: &str) -> &'a str {
    assert_eq!(part["type"], "input_text", "{part}");
    let said = part["text"].as_str().expect("a text");
    let (first, rest) = said.split_once('\n').expect("a first line");
    let (text, last) = rest.rsplit_once('\n').expect("a last line");
    let id = first.strip_prefix("<file id=").and_then(|rest| rest.get(..16)).expect("an id");
    assert_eq!(first, format!("<file id={id} name=\"{name}\">"));
    assert_eq!(last, format!("</file id={id}>"));
    text
}

#[tokio::test]
async fn files_reach_the_model_as_their_text() {
    for face in FACES {
        let world = World::start(face).await;
        let parts = [
            text("compare"),
            input_file("a.csv", b"\xef\xbb\xbfname,age\nann,7"),
            input_file("b.pdf", &pdf("Total: 42 EUR")),
        ];
        world.ask(user(&parts)).await.ok();
        let input = last_input(&world);
        let content = &input[0]["content"];
        assert_eq!(content[0]["text"], "compare");
        assert_eq!(between_lines(&content[1], "a.csv"), "name,age\nann,7");
        assert_eq!(between_lines(&content[2], "b.pdf"), "Total: 42 EUR");

        let file = json!({"filename": "b.pdf",
            "file_data": format!("data:application/pdf;base64,{}", STANDARD.encode(pdf("Total: 42 EUR")))});
        let messages =
            user(&[json!({"type": "text", "text": "compare"}), json!({"type": "file", "file": file})]);
        world.client.post("/v1/chat/completions", &json!({"messages": messages})).await.ok();
        assert_eq!(last_input(&world)[0]["content"][1], content[2]);
        world.end().await;
    }
}

#[tokio::test]
async fn files_and_pictures_of_tools_reach_the_model() {
    let picture = || async {
        let bytes = STANDARD.decode(PIXEL.split(',').next_back().unwrap_or_default()).unwrap_or_default();
        ([(header::CONTENT_TYPE, "image/gif")], bytes)
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let server = format!("http://{}", listener.local_addr().expect("an address"));
    let router = Router::new().route("/a.gif", get(picture));
    Tasks::new().spawn("pictures", async move { axum::serve(listener, router).await.expect("a server") });

    for face in FACES {
        let world = World::configured(face, |config, _| config.images.allow_private = true).await;
        let parameters = json!({"type": "object", "properties": {}});
        let tools = json!([{"type": "function", "name": "look", "parameters": parameters}]);
        let asked = json!({"input": "CALLTOOL look {}", "tools": tools});
        let first = world.client.post("/v1/responses", &asked).await.ok();
        let call = first["output"].as_array().and_then(|items| items.last()).expect("a call").clone();
        assert_eq!(call["type"], "function_call");
        let output = json!({"type": "function_call_output", "call_id": call["call_id"], "output": [
            text("seen:"),
            {"type": "input_image", "image_url": PIXEL},
            {"type": "input_image", "image_url": format!("{server}/a.gif")},
            input_file("log.txt", b"all well"),
        ]});

        // The held turn goes on.
        let next = json!({"previous_response_id": first["id"], "input": [output], "tools": tools});
        world.client.post("/v1/responses", &next).await.ok();
        let held = last_output(&world);
        assert_eq!(world.seen().len(), 2);

        // Without the turn, from the items.
        let question = json!({"role": "user", "content": "CALLTOOL look {}"});
        let rebuilt = json!({"input": [question, call, output], "instructions": "again", "tools": tools});
        world.client.post("/v1/responses", &rebuilt).await.ok();
        for output in [&held, &last_output(&world)] {
            assert_eq!(output[0], text("seen:"));
            for picture in [&output[1], &output[2]] {
                assert_eq!(picture["type"], "input_image", "{output}");
                let url = picture["image_url"].as_str().expect("an address");
                assert!(url.starts_with("data:image/png;base64,"), "{url}");
            }
            assert_eq!(between_lines(&output[3], "log.txt"), "all well");
        }

        // The same for chat, where it is beyond the official form.
        let called = json!({"role": "assistant", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]});
        let said = json!({"role": "tool", "tool_call_id": "c1", "content": [
            {"type": "text", "text": "seen:"},
            {"type": "image_url", "image_url": {"url": PIXEL}},
            {"type": "image_url", "image_url": {"url": format!("{server}/a.gif")}},
            {"type": "file", "file": {"filename": "log.txt", "file_data": STANDARD.encode("all well")}},
        ]});
        let messages = json!([{"role": "user", "content": "look"}, called, said]);
        world.client.post("/v1/chat/completions", &json!({"messages": messages})).await.ok();
        assert_eq!(last_output(&world), held);
        world.end().await;
    }
}

fn last_output(world: &World) -> Value {
    let input = last_input(world);
    let output =
        input.as_array().and_then(|items| items.iter().rfind(|item| item["type"] == "function_call_output"));
    output.expect("an output")["output"].clone()
}

#[tokio::test]
async fn hostile_pdfs_are_refused_and_harm_nobody() {
    let world = World::configured(On::Plain, |config, _| {
        config.files.pdf_memory = 256 << 20;
        config.files.max_pages = 3;
        config.files.max_text_bytes = 10_000;
    })
    .await;
    let refused = async |bytes: &[u8]| refusal(&ask_about(&world, "x.pdf", bytes).await);

    // Cut anywhere, it is refused or read, and nothing worse.
    let whole = pdf("Some text that is there");
    for length in (1..whole.len()).step_by(whole.len() / 24) {
        let answer = ask_about(&world, "x.pdf", &whole[..length]).await;
        if answer.status != 200 {
            assert!(
                ["file_parse_error", "unsupported_file", "file_without_text"].contains(&&*refusal(&answer))
            );
        }
    }
    let text = |text: &str| text.as_bytes().to_vec();
    let nested = |open: &str, close: &str| format!("{}{}", open.repeat(100_000), close.repeat(100_000));
    let loops =
        |page: &str| pdf_of(&[text(CATALOGUE), text(PAGES), text(page), stream("", b"/X Do"), text(FONT)]);
    let itself = "<< /Type /Page /Parent 3 0 R /Contents 4 0 R /MediaBox [0 0 9 9] >>";
    let form = stream(
        "/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X 6 0 R >> >>",
        b"/X Do",
    );
    let drawn =
        text("<< /Type /Page /Parent 2 0 R /Contents 4 0 R /Resources << /XObject << /X 6 0 R >> >> >>");
    let hostile = [
        ("arrays in arrays", pdf_with("", format!("{} TJ", nested("[", "]")).as_bytes())),
        ("dictionaries in dictionaries", pdf_of(&[text(&nested("<</A ", ">>"))])),
        ("a page that is its own parent", loops(itself)),
        (
            "pages that are their own kids",
            pdf_of(&[text(CATALOGUE), text("<< /Type /Pages /Kids [2 0 R] >>")]),
        ),
        (
            "a form that draws itself",
            pdf_of(&[text(CATALOGUE), text(PAGES), drawn, stream("", b"/X Do"), text(FONT), form]),
        ),
        ("a stream that unpacks to 400 MB", pdf_with("/Filter /FlateDecode", &bomb(400 << 20))),
        ("no objects", text("%PDF-1.7\nstartxref\n99999999999\n%%EOF")),
        ("noise", [b"%PDF-1.7\n".as_slice(), &[0xa5; 5000]].concat()),
    ];
    for (what, bytes) in hostile {
        let code = refused(&bytes).await;
        assert!(["file_parse_error", "file_without_text"].contains(&&*code), "{what}: {code}");
    }
    let pages = "3 0 R ".repeat(4);
    let pages = text(&format!("<< /Type /Pages /Kids [{pages}] /Count 4 /MediaBox [0 0 9 9] >>"));
    let long = pdf_of(&[text(CATALOGUE), pages, text(PAGE), stream("", b""), text(FONT)]);
    assert_eq!(refused(&long).await, "file_too_large");
    assert_eq!(refused(&pdf(&"word ".repeat(3000))).await, "file_too_large");
    let encrypted = text(
        "<< /Filter /Standard /V 1 /R 2 /O (xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx) /U (yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy) /P -4 >>",
    );
    let mut secret =
        pdf_of(&[text(CATALOGUE), text(PAGES), text(PAGE), stream("", b""), text(FONT), encrypted]);
    let trailer = secret.len() - 60;
    let tail =
        String::from_utf8_lossy(&secret[trailer..]).replace("/Root", "/Encrypt 6 0 R /ID [(a) (a)] /Root");
    secret.splice(trailer.., tail.bytes());
    assert_eq!(refused(&secret).await, "encrypted_file");
    assert_eq!(refused(&pdf_with("", b"0 0 m 9 9 l S")).await, "file_without_text");

    assert!(world.seen_with("read it").iter().all(|seen| seen.input.to_string().contains("</file id=")));
    ask_about(&world, "x.pdf", &pdf("still read")).await.ok();
    world.end().await;
}

/// Runs for far longer than any limit here.
fn endless_pdf() -> Vec<u8> {
    pdf_with("", &b"BT /F 9 Tf (word) Tj ET ".repeat(200_000))
}

#[tokio::test]
async fn a_pdf_has_so_much_time_and_no_reader_is_left() {
    let bytes = endless_pdf();
    let world = World::configured(On::Plain, |config, _| {
        config.files.pdf_timeout = Duration::from_secs(1);
        config.files.max_pages = 1001;
    })
    .await;
    let answer = ask_about(&world, "x.pdf", &bytes).await;
    assert_eq!(refusal(&answer), "file_parse_error");
    assert!(answer.text.contains("files.pdf_timeout"), "{}", answer.text);
    until("the reader is gone", async || (!is_reading(1001)).then_some(())).await;
    world.end().await;

    // A client that leaves.
    let world = World::configured(On::Plain, |config, _| config.files.max_pages = 1002).await;
    tokio::select! {
        answer = ask_about(&world, "x.pdf", &bytes) => panic!("it is read at once: {}", answer.text),
        () = until("it is being read", async || is_reading(1002).then_some(())) => {}
    }
    until("the reader is gone", async || (!is_reading(1002)).then_some(())).await;
    world.end().await;
}

/// A world whose models take other inputs than the stock ones, each by its place in the catalogue.
async fn world_with_modalities(modalities: impl Fn(usize) -> Value) -> World {
    World::configured(On::Plain, |config, place| {
        let catalogue = place.temp.path().join("catalogue.json");
        let codex = config.app_server.codex_bin.as_ref().expect("a codex");
        let stock = std::process::Command::new(codex).args(["debug", "models"]).output().expect("the models");
        let mut stock: Value = serde_json::from_slice(&stock.stdout).expect("JSON");
        for (place, model) in stock["models"].as_array_mut().expect("models").iter_mut().enumerate() {
            model["input_modalities"] = modalities(place);
        }
        std::fs::write(&catalogue, stock.to_string()).expect("a file");
        config.app_server.codex_config.push(format!("model_catalog_json='{}'", catalogue.display()));
    })
    .await
}

#[tokio::test]
async fn images_reach_no_model_that_takes_none_not_even_from_earlier_answers() {
    let world =
        world_with_modalities(|place| if place == 0 { json!(["text", "image"]) } else { json!(["text"]) });
    let world = world.await;
    let listed = world.client.get("/v1/models?details=true").await.ok();
    let id_of = |takes: bool| {
        let mut models = listed["data"].as_array().expect("a list").iter();
        let is_it =
            |model: &&Value| model["details"]["input_modalities"].to_string().contains("image") == takes;
        models.find(is_it).expect("one").clone()["id"].clone()
    };
    let (seeing, blind) = (id_of(true), id_of(false));
    let image = json!({"type": "input_image", "image_url": PIXEL});
    let ask = async |model: &Value, input: Value, previous: &Value| {
        let body = json!({"model": model, "input": input, "previous_response_id": previous});
        world.client.post("/v1/responses", &body).await
    };
    let refused = |answer: &crate::http::Answer, param: &str| {
        let error = answer.error();
        assert_eq!((answer.status, &error["code"]), (400, &json!("unsupported_value")), "{}", answer.text);
        assert_eq!(error["param"], param);
    };
    let pictured = user(&[text("SAY seen"), image]);
    refused(&ask(&blind, pictured.clone(), &Value::Null).await, "input[0].content[1].image_url");
    let first = ask(&seeing, pictured, &Value::Null).await.ok();
    refused(&ask(&blind, json!("SAY more"), &first["id"]).await, "previous_response_id");
    ask(&seeing, json!("SAY more"), &first["id"]).await.ok();
    assert_eq!(world.seen().len(), 2);
    world.end().await;
}

#[tokio::test]
async fn audio_reaches_models_that_take_it() {
    let wav = STANDARD.encode([b"RIFF\x2c\0\0\0WAVEfmt \x10\0\0\0".as_slice(), &[0; 32]].concat());
    let audio = json!({"type": "input_audio", "input_audio": {"data": wav, "format": "wav"}});
    let input = user(&[text("hear"), audio.clone()]);
    let messages = user(&[json!({"type": "text", "text": "hear"}), audio]);
    let posts =
        [("/v1/responses", json!({"input": input})), ("/v1/chat/completions", json!({"messages": messages}))];

    let world = World::start(On::Plain).await;
    let model = world.models().await.remove(0);
    for (path, body) in &posts {
        let mut body = body.clone();
        body["model"] = model.as_str().into();
        let answer = world.client.post(path, &body).await;
        let error = answer.error();
        assert_eq!((answer.status, &error["code"]), (400, &json!("unsupported_value")), "{}", answer.text);
        assert!(error["message"].to_string().contains(&model), "{error}");
        assert!(error["param"].to_string().ends_with("content[1].input_audio.data\""), "{error}");
    }
    assert!(world.seen_with("hear").is_empty());
    world.end().await;

    let world = world_with_modalities(|_| json!(["text", "image", "audio"])).await;
    for (path, body) in &posts {
        world.client.post(path, body).await.ok();
        let seen = world.seen().pop().expect("a request");
        let heard = seen.input.as_array().and_then(|items| items.last()).expect("a message").clone();
        assert_eq!(heard["content"][0], text("hear"));
        let url = format!("data:audio/wav;base64,{wav}");
        assert_eq!(heard["content"][1], json!({"type": "input_audio", "audio_url": url}));
    }
    world.end().await;
}

#[tokio::test]
async fn the_tier_that_is_sent_is_the_one_that_is_shown() {
    for face in FACES {
        let world = World::start(face).await;
        for (asked, sent, shown) in [
            (json!("flex"), json!("flex"), json!("flex")),
            (json!("fast"), json!("priority"), json!("priority")),
            (json!("priority"), json!("priority"), json!("priority")),
            (json!("scale"), json!(null), json!("default")),
            (json!("default"), json!(null), json!("default")),
            (json!("auto"), json!(null), json!("default")),
        ] {
            let body = json!({"input": "hi", "service_tier": asked});
            let answer = world.client.post("/v1/responses", &body).await.ok();
            assert_eq!((&answer["service_tier"], last_tier(&world)), (&shown, sent.clone()), "{asked}");
            let body = json!({"messages": [{"role": "user", "content": "hi"}], "service_tier": asked});
            let answer = world.client.post("/v1/chat/completions", &body).await.ok();
            assert_eq!((&answer["service_tier"], last_tier(&world)), (&shown, sent), "{asked}");
        }
        let answer = world.ask("hi").await.ok();
        assert_eq!((&answer["service_tier"], last_tier(&world)), (&json!("default"), json!(null)));
        world.end().await;
    }
}

fn last_tier(world: &World) -> Value {
    world.seen().last().expect("a request").body["service_tier"].clone()
}
