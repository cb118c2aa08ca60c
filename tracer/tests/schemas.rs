//! The schemas that `schema` prints, against what the commands really write; checked by a small reader of JSON Schema
//! that refuses any keyword it does not know.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Why a value does not satisfy a schema; `Ok` if it does.
fn check(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    for (keyword, operand) in schema.as_object().ok_or("a schema is an object")? {
        let holds = match keyword.as_str() {
            "$schema" | "title" | "description" | "properties" | "additionalProperties" => true,
            "type" => has_type(value, operand.as_str().unwrap()),
            "const" => operand == value,
            "enum" => operand.as_array().unwrap().contains(value),
            "minimum" => value.as_i64().is_none_or(|number| operand.as_i64().unwrap() <= number),
            "maximum" => value.as_i64().is_none_or(|number| number <= operand.as_i64().unwrap()),
            "pattern" => {
                assert_eq!(operand, "^0x[0-9a-f]+$", "the one pattern in use");
                let digits = value.as_str().and_then(|text| text.strip_prefix("0x"));
                digits.is_some_and(|digits| {
                    !digits.is_empty()
                        && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
                })
            }
            "required" => {
                let names = operand.as_array().unwrap();
                names.iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            "items" => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(operand, item, &format!("{at}[{n}]"))?;
                }
                true
            }
            "anyOf" => branches(operand, value, at) != 0,
            "oneOf" => branches(operand, value, at) == 1,
            keyword => panic!("keyword {keyword} is not known to this test"),
        };
        if !holds {
            return Err(format!("{at}: {value} breaks {keyword} {operand}"));
        }
    }
    members(schema, value, at)
}

fn branches(schemas: &Value, value: &Value, at: &str) -> usize {
    schemas.as_array().unwrap().iter().filter(|schema| check(schema, value, at).is_ok()).count()
}

fn members(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    for (name, member) in value.as_object().into_iter().flatten() {
        let place = format!("{at}.{name}");
        match (
            schema.get("properties").and_then(|all| all.get(name)),
            &schema["additionalProperties"],
        ) {
            (Some(schema), _) => check(schema, member, &place)?,
            (None, Value::Bool(false)) => return Err(format!("{place} is not in the schema")),
            (None, schema @ Value::Object(_)) => check(schema, member, &place)?,
            (None, _) => {}
        }
    }
    Ok(())
}

fn has_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        name => panic!("type {name} is not known to this test"),
    }
}

fn run(arguments: &[&str]) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let output = Command::new(env!("CARGO_BIN_EXE_kvmdirty-trace"))
        .args(arguments)
        .current_dir(tests)
        .output()
        .unwrap();
    assert_ne!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn schema(document: &str) -> Value {
    serde_json::from_str(&run(&["schema", document])).unwrap()
}

/// A real trace with gaps, and every race a person wrote.
fn files() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/litmus");
    let mut files: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| format!("litmus/{}", entry.unwrap().file_name().to_string_lossy()))
        .filter(|name| name.ends_with(".litmus"))
        .collect();
    files.sort();
    files.push(String::from("fixtures/v1.kdt"));
    files.push(String::from("../assets/demo.kdt"));
    files
}

#[test]
fn reports_satisfy_their_schema() {
    let schema = schema("report");
    for file in files() {
        let report = serde_json::from_str(&run(&["check", "--json", "--final", &file])).unwrap();
        check(&schema, &report, &file).unwrap();
    }
}

#[test]
fn json_lines_satisfy_their_schema() {
    let schema = schema("jsonl");
    for file in ["fixtures/v1.kdt", "../assets/demo.kdt"] {
        let lines = run(&["export", file, "--format", "jsonl"]);
        assert!(1_000 < lines.lines().count());
        // Every line of a small file; of a larger one every ninth, because each is tried against every kind of line.
        for (n, line) in lines.lines().enumerate().filter(|(n, _)| n % 9 == 0) {
            check(&schema, &serde_json::from_str(line).unwrap(), &format!("{file}:{n}")).unwrap();
        }
    }
}

#[test]
fn a_schema_can_fail() {
    let schema = schema("report");
    let report = run(&["check", "--json", "fixtures/v1.kdt"]);
    let mut report: Value = serde_json::from_str(&report).unwrap();
    report["verdicts"]["lost"] = Value::from(-1);
    assert!(
        check(&schema, &report, "").unwrap_err().contains(".verdicts.lost: -1 breaks minimum 0")
    );
    report["verdicts"]["lost"] = Value::from(0);
    report["new"] = Value::from(1);
    assert_eq!(check(&schema, &report, "").unwrap_err(), ".new is not in the schema");
}
