use serde_json::json;

use super::*;

fn item(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn draft(items: &[Value]) -> Draft {
    let mut draft = Draft::default();
    for value in items {
        draft.item(item(value));
    }
    draft
}

#[test]
fn calls_and_outputs_come_in_pairs_of_one_kind() {
    let call = json!({ "type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}" });
    let output = json!({ "type": "function_call_output", "call_id": "c1", "output": "x" });
    let custom_output = json!({ "type": "custom_tool_call_output", "call_id": "c1", "output": "x" });
    let missing_output = Unpaired::Call { index: 0, call_id: "c1".into() };

    assert_eq!(draft(&[call.clone(), output.clone()]).unpaired(false), None);
    assert_eq!(draft(std::slice::from_ref(&call)).unpaired(false), Some(missing_output));
    assert_eq!(draft(std::slice::from_ref(&call)).unpaired(true).map(|_| ()), Some(()));
    let unanswered = draft(&[call, custom_output]).unpaired(false);
    assert_eq!(unanswered, Some(Unpaired::Call { index: 0, call_id: "c1".into() }));
    let orphan = draft(std::slice::from_ref(&output));
    assert_eq!(orphan.unpaired(false), Some(Unpaired::Output { index: 0, call_id: "c1".into() }));
    assert_eq!(orphan.unpaired(true), None);
}

fn media() -> Media {
    let (config, tasks) = (crate::config::Config::default(), crate::tasks::Tasks::new());
    Media {
        images: ImageFetcher::new(&config.images, tasks.clone()).unwrap(),
        audio: AudioCheck::new(&config.audio, tasks.clone()),
        files: FileReader::new(&config.files, None, tasks).unwrap(),
    }
}

#[tokio::test]
async fn images_are_put_back_where_they_were() {
    const PIXEL: &str = "data:image/gif;base64,R0lGODlhAQABAIAAAAUEBAAAACwAAAAAAQABAAACAkQBADs=";
    let mut draft = Draft::default();
    draft.message("system", vec![Part::text("system", "look")]);
    let image = Part::image(PIXEL.into(), Some("low"), "input[1].content[1].image_url");
    draft.message("user", vec![Part::text("user", "this"), image]);
    draft.item_with(
        item(&json!({ "type": "function_call_output", "call_id": "c1" })),
        "output",
        vec![Part::image(PIXEL.into(), None, "input[2].output[0].image_url")],
    );
    assert_eq!(draft.image_params(), ["input[1].content[1].image_url", "input[2].output[0].image_url"]);
    let items = draft.finish(&media()).await.unwrap();
    let items: Vec<Value> = items.iter().map(Item::to_value).collect();
    assert_eq!(
        Value::Array(items),
        json!([
            { "type": "message", "role": "developer", "content": [{ "type": "input_text", "text": "look" }] },
            { "type": "message", "role": "user", "content": [
                { "type": "input_text", "text": "this" },
                { "type": "input_image", "image_url": PIXEL, "detail": "low" },
            ] },
            { "type": "function_call_output", "call_id": "c1",
              "output": [{ "type": "input_image", "image_url": PIXEL }] },
        ])
    );
}
