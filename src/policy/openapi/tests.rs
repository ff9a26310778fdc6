//! OpenAPI documents: what a tool becomes, and which operations are left out or refused.

use super::*;

const CHARGES: &str = r##"
openapi: 3.0.3
info: { title: Payments, version: 1.2.0 }
servers: [{ url: 'https://pay.example/{stage}/v1/', variables: { stage: { default: live } } }]
paths:
  /customers/{id}/charges:
    parameters:
      - { name: id, in: path, required: true, description: Whose card., schema: { type: string } }
      - { name: dry, in: query, schema: { type: string } }
    post:
      operationId: charge
      summary: Charges a customer.
      parameters:
        - { name: dry, in: query, required: true, schema: { type: boolean } }
        - { name: Idempotency-Key, in: header, schema: { type: string } }
        - { name: session, in: cookie, schema: { type: string } }
      requestBody: { $ref: '#/components/requestBodies/Charge' }
      responses:
        400: { description: No. }
        201:
          description: Done.
          content: { application/json: { schema: { $ref: '#/components/schemas/Charge' } } }
components:
  requestBodies:
    Charge:
      required: true
      content:
        application/json; charset=utf-8: { schema: { $ref: '#/components/schemas/Charge' } }
        application/x-www-form-urlencoded: {}
  schemas:
    Charge:
      type: object
      required: [amount, charge_id]
      additionalProperties: false
      properties:
        amount: { type: number, minimum: 0, exclusiveMinimum: true }
        note: { type: string, nullable: true, enum: [yes, no] }
        charge_id: { type: string, readOnly: true }
        of: { $ref: '#/components/schemas/Reason' }
    Reason:
      type: object
      properties: { text: { type: string }, because: { $ref: '#/components/schemas/Reason' } }
    Unused: { type: string }
"##;

#[track_caller]
fn described(text: &str) -> Described {
    read(text, "").unwrap()
}

fn definition(text: &str, at: usize) -> Value {
    serde_json::from_str(&described(text).definitions[at]).unwrap()
}

/// A document with one operation, POST /x.
fn posting(operation: &str) -> String {
    let components =
        r##""components":{"schemas":{"Loop":{"$ref":"#/components/schemas/Loop"},"A":{"type":"object"}}}"##;
    format!(r#"{{"openapi":"3.1.0","paths":{{"/x":{{"post":{{{operation}}}}}}},{components}}}"#)
}

#[track_caller]
fn left_out(operation: &str) -> String {
    let described = described(&posting(operation));
    assert!(described.definitions.is_empty(), "{described:?}");
    described.left_out[0].to_string()
}

#[test]
fn an_operation_becomes_a_definition_that_stands_alone() {
    let charge = definition(CHARGES, 0);
    assert_eq!(charge["name"], "charge");
    assert_eq!(charge["description"], "Charges a customer.");
    assert_eq!(
        charge["http"],
        json!({ "method": "POST", "path": "/live/v1/customers/{id}/charges",
            "parameters": { "id": "path", "dry": "query", "Idempotency-Key": "header" } })
    );
    let reason = json!({ "type": "object", "properties": {
        "text": { "type": "string" }, "because": { "$ref": "#/$defs/Reason" } } });
    let body = json!({
        "amount": { "type": "number", "exclusiveMinimum": 0 },
        "note": { "type": ["string", "null"], "enum": ["yes", "no", null] },
        "charge_id": { "type": "string", "readOnly": true },
        "of": { "$ref": "#/$defs/Reason" },
    });
    let mut properties = body.clone();
    insert(&mut properties, "id", json!({ "type": "string", "description": "Whose card." }));
    insert(&mut properties, "dry", json!({ "type": "boolean" }));
    assert_eq!(
        charge["inputSchema"],
        json!({ "type": "object", "properties": properties, "required": ["amount", "dry", "id"],
            "additionalProperties": false, "$defs": { "Reason": reason } })
    );
    let answer = json!({ "type": "object", "properties": body, "required": ["amount", "charge_id"],
        "additionalProperties": false });
    assert_eq!(
        charge["outputSchema"],
        json!({ "$ref": "#/$defs/Charge", "$defs": { "Charge": answer, "Reason": reason } })
    );
}

#[test]
fn json_and_yaml_that_say_the_same_make_the_same_tools() {
    let yaml: Value = serde_saphyr::from_str(CHARGES).unwrap();
    let said = described(&yaml.to_string().replace("true,\"null\"", "true"));
    assert_eq!(said.definitions.len(), 1);
    let text = posting(r#""operationId":"a","responses":{"200":{"description":"x"}}"#);
    let same = "openapi: 3.1.0\npaths:\n  /x:\n    post: { operationId: a, responses: { 200: { description: x } } }\n";
    assert_eq!(described(&text), described(same));
}

#[test]
fn paths_are_those_behind_the_upstreams_url() {
    let path = |base: &str| {
        let described = read(CHARGES, base).unwrap();
        let definition: Value = serde_json::from_str(&described.definitions[0]).unwrap();
        definition["http"]["path"].as_str().unwrap().to_owned()
    };
    assert_eq!(path("/live/v1"), "/customers/{id}/charges");
    assert_eq!(path("/gateway/live/v1"), "/customers/{id}/charges");
    assert_eq!(path("/v1"), "/live/v1/customers/{id}/charges");
    let server = |url: &str| format!(r#""operationId":"a","servers":[{{"url":"{url}"}}]"#);
    let own = definition(&posting(&server("https://other.example")), 0);
    assert_eq!(own["http"]["path"], "/x");
    assert_eq!(definition(&posting(&server("/v2")), 0)["http"]["path"], "/v2/x");
    assert_eq!(left_out(&server("v2")), "POST /x is left out: the path of its server `v2` is not known");
}

#[test]
fn an_operation_that_can_be_no_tool_is_left_out_and_said() {
    let body = |content: &str| format!(r#""operationId":"a","requestBody":{{"content":{content}}}"#);
    let json = |schema: &str| body(&format!(r#"{{"application/json":{{"schema":{schema}}}}}"#));
    for (operation, why) in [
        (r#""summary":"x""#.to_owned(), "it has no `operationId`"),
        (r#""operationId":"a/b""#.to_owned(), "its `operationId` is no name of a tool"),
        (body(r#"{"multipart/form-data":{}}"#), "its body is not JSON"),
        (body(r#"{"application/json":{}}"#), "nothing is said of its body"),
        (json(r#"{"type":"array"}"#), "its body is no object"),
        (
            json(r#"{"allOf":[{"type":"object"}]}"#),
            "the members of its body are not known: it is made with `allOf`",
        ),
        (json(r##"{"$ref":"#/components/schemas/Loop"}"##), "a reference leads to itself"),
        (json(r#"{"$ref":"other.yaml#/A"}"#), "the reference `other.yaml#/A` leads nowhere"),
        (json(r#"{"properties":{"p":{"$ref":"other.yaml#/A"}}}"#), "`other.yaml#/A` leads to no schema"),
        (json(r#"{"properties":{"p":{"$id":"x"}}}"#), "a schema with `$id` cannot be taken out"),
        (json(r#"{"properties":{"p":{"type":"nothing"}}}"#), "cannot be checked against"),
        (
            r#""operationId":"a","parameters":[{"name":"id","in":"path"}]"#.to_owned(),
            "its path and its parameters do not both have `id`",
        ),
    ] {
        let said = left_out(&operation);
        assert!(said.starts_with("POST /x is left out: ") && said.contains(why), "{operation}\n{said}");
    }
    let partly = posting(r#""operationId":"a""#).replace("/x", "/x/{id}:cancel\\u001b");
    let said = described(&partly).left_out[0].to_string();
    assert!(said.contains("is only in part a parameter") && !said.contains('\u{1b}'), "{said}");
}

#[test]
fn a_name_in_two_places_is_refused_with_its_operation() {
    let refused = |operation: &str| read(&posting(operation), "").unwrap_err().to_string();
    let expected = "the operation `a` has `id` in two places, so that its arguments cannot be told apart";
    let parameters =
        |more: &str| format!(r#""operationId":"a","parameters":[{{"name":"id","in":"query"}}{more}]"#);
    assert_eq!(refused(&parameters(r#",{"name":"id","in":"header"}"#)), expected);
    let body = r#""requestBody":{"content":{"application/json":{"schema":{"properties":{"id":{}}}}}}"#;
    assert_eq!(refused(&format!("{},{body}", parameters(""))), expected);
}

#[test]
fn what_a_body_need_not_be_there_for_is_not_required() {
    let schema = r#"{"type":"object","required":["b"],"properties":{"b":{"type":"string"}}}"#;
    let required = |said: &str| {
        let body = format!(
            r#""requestBody":{{{said}"content":{{"application/merge-patch+json":{{"schema":{schema}}}}}}}"#
        );
        definition(&posting(&format!(r#""operationId":"a",{body}"#)), 0)["inputSchema"]["required"].clone()
    };
    assert_eq!(required(r#""required":true,"#), json!(["b"]));
    assert_eq!(required(""), Value::Null);
}

#[test]
fn names_of_members_are_not_taken_for_words_of_schemas() {
    let schema = r##"{"properties":{"$ref":{"type":"string"},"nullable":{"type":"string"},"properties":{"$ref":"#/components/schemas/A"}},
        "example":{"$ref":"nowhere"}}"##;
    let body = format!(
        r#""operationId":"a","requestBody":{{"content":{{"application/json":{{"schema":{schema}}}}}}}"#
    );
    let input = definition(&posting(&body), 0)["inputSchema"].clone();
    assert_eq!(input["properties"]["$ref"], json!({ "type": "string" }));
    assert_eq!(input["properties"]["nullable"], json!({ "type": "string" }));
    assert_eq!(input["$defs"], json!({ "A": { "type": "object" } }));
}

#[test]
fn what_many_operations_refer_to_is_not_taken_along_without_end() {
    let long = "x".repeat(DEFINITIONS_BYTES_MAX / 4);
    let path = |n: usize| {
        let answer = r##"{"content":{"application/json":{"schema":{"$ref":"#/components/schemas/A"}}}}"##;
        format!(r#""/{n}":{{"post":{{"operationId":"o{n}","responses":{{"200":{answer}}}}}}}"#)
    };
    let document = |count: usize| {
        let paths: Vec<String> = (0..count).map(path).collect();
        let components = format!(r#"{{"schemas":{{"A":{{"type":"object","description":"{long}"}}}}}}"#);
        format!(r#"{{"openapi":"3.1.0","paths":{{{}}},"components":{components}}}"#, paths.join(","))
    };
    assert_eq!(described(&document(3)).definitions.len(), 3);
    assert_eq!(read(&document(4), ""), Err(BadDocument::TooLong));
}

#[test]
fn what_is_no_document_of_a_known_version_is_refused() {
    let refused = |text: &str| read(text, "").unwrap_err().to_string();
    for other in ["{}", r#"{"swagger":"2.0"}"#, "openapi: 3.2.0", "openapi: 3.1"] {
        assert_eq!(refused(other), "it does not say that it is OpenAPI 3.0 or 3.1", "{other}");
    }
    assert!(refused("{").starts_with("it is neither JSON nor YAML: at byte 1"));
    assert!(refused(r#"{"openapi":"3.1.0","openapi":"3.1.0"}"#).contains("a key stands twice"));
    assert!(refused("openapi: 3.1.0\nopenapi: 3.1.0\n").contains("neither JSON nor YAML"));
    assert!(refused("a: [").contains("neither JSON nor YAML"));
}
