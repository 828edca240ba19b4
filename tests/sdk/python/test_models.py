import openai
import pytest
from openai.types import Model


def test_list_and_retrieve_agree(client):
    models = client.models.list().data
    assert models
    for model in models:
        assert isinstance(model, Model)
        assert model.object == "model"
        assert model.id and model.owned_by
        assert model.created > 0
        assert client.models.retrieve(model.id) == model
        assert set(model.to_dict()) == {"id", "object", "created", "owned_by"}, "official fields alone"


def test_details_are_given_where_asked_for(client):
    plain = client.models.list().data[0]
    details = client.models.list(extra_query={"details": "true"}).data[0]
    assert details.id == plain.id
    extra = set(details.to_dict()) - set(plain.to_dict())
    assert extra, "no further field"


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("no-such-model")
    assert raised.value.code == "model_not_found"
    assert raised.value.type == "invalid_request_error"


def test_every_listed_model_answers(client, mark):
    for model in client.models.list():
        response = client.responses.create(model=model.id, input=f"SAY {mark}")
        assert (response.output_text, response.model) == (mark, model.id)
