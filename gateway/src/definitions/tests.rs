//! What files of RabbitMQ hold, and what is said of those that cannot be taken.
#![allow(clippy::unwrap_used)]

use store::model::*;

use super::*;

fn refusal(text: &str) -> String {
    read(text, None).map(drop).unwrap_err().to_string()
}

const WHOLE: &str = r#"{
  "rabbit_version": "3.10.8", "rabbitmq_version": "3.10.8", "unknown_key": 1,
  "users": [
    {"name": "a", "password_hash": "AQIDBA==", "hashing_algorithm":
     "rabbit_password_hashing_sha512", "tags": ["administrator", "x"],
     "limits": {"max-channels": 3}},
    {"name": "b", "password": "secret", "tags": "management,monitoring"},
    {"name": "c", "password_hash": "", "tags": ""}
  ],
  "vhosts": [{"name": "/", "limits": [], "metadata": {"description": "d", "tags": ["t"]}}],
  "permissions": [{"user": "a", "vhost": "/", "configure": "", "write": ".*", "read": "^x"}],
  "topic_permissions": [{"user": "a", "vhost": "/", "exchange": "amq.topic", "write": "^{username}",
   "read": ".*"}],
  "parameters": [
    {"vhost": "/", "component": "shovel", "name": "s", "value": {"src-queue": "q"}},
    {"vhost": "/", "component": "vhost-limits", "name": "limits", "value": {"max-queues": 9}},
    {"vhost": "/", "component": "operator_policy", "name": "o", "value": {"pattern": ".*",
     "apply-to": "queues", "definition": {"max-length": 10}, "priority": 1}}
  ],
  "global_parameters": [{"name": "cluster_name", "value": "rabbit@here"}],
  "policies": [{"vhost": "/", "name": "p", "pattern": "^q", "apply-to": "queues",
   "definition": {"message-ttl": 60000, "dead-letter-exchange": ""}, "priority": 0}],
  "queues": [{"name": "q", "vhost": "/", "durable": true, "auto_delete": false, "type": "quorum",
   "arguments": {"x-max-length": 5, "x-list": [1, "a", true, 0.5, null]}}],
  "exchanges": [{"name": "e", "vhost": "/", "type": "topic", "durable": true,
   "auto_delete": false, "internal": true, "arguments": {"alternate-exchange": "amq.fanout"}}],
  "bindings": [
    {"source": "", "vhost": "/", "destination": "q", "destination_type": "queue",
     "routing_key": "q", "arguments": {}},
    {"source": "e", "vhost": "/", "destination": "q", "destination_type": "queue",
     "routing_key": "a.#", "arguments": {"x": {"y": 1}}}
  ]
}"#;

#[test]
fn a_whole_file_is_read() {
    let all = read(WHOLE, None).unwrap();
    let hashing: Vec<_> = all.users.iter().map(|user| &*user.hashing).collect();
    assert_eq!(
        hashing,
        [
            "rabbit_password_hashing_sha512",
            "rabbit_password_hashing_sha256",
            "rabbit_password_hashing_sha256"
        ]
    );
    assert_eq!(all.users[0].tags, "administrator,x");
    assert_eq!(all.users[1].tags, "management,monitoring");
    assert!(store::password::verify(Some(&all.users[1]), "secret"));
    assert_eq!(
        (&*all.vhosts[0].description, &*all.vhosts[0].tags),
        ("d", "t")
    );
    assert_eq!(all.permissions[0].configure, "");
    let limits: Vec<_> = all
        .limits
        .iter()
        .map(|row| (row.of, &*row.subject, row.name, row.value))
        .collect();
    assert_eq!(
        limits,
        [
            (LimitOf::User, "a", LimitName::MaxChannels, 3),
            (LimitOf::Vhost, "/", LimitName::MaxQueues, 9)
        ]
    );
    let policies: Vec<_> = all
        .policies
        .iter()
        .map(|row| (row.kind, &*row.name))
        .collect();
    assert_eq!(
        policies,
        [(PolicyKind::Operator, "o"), (PolicyKind::User, "p")]
    );
    let queue = &all.queues[0].declare.arguments;
    assert_eq!(queue.find("x-queue-type"), Some(&Value::text("quorum")));
    assert_eq!(queue.find("x-max-length"), Some(&Value::I64(5)));
    assert_eq!(
        all.bindings.len(),
        1,
        "those of the default exchange are left out"
    );
    assert_eq!(&*all.parameters[1].name, "cluster_name");
}

#[test]
fn what_is_written_reads_the_same() {
    let first = read(WHOLE, None).unwrap();
    let text = write(&first);
    let second = read(&text, None).unwrap();
    assert_eq!(write(&second), text);
    assert_eq!(first.users.len(), second.users.len());
    let mut limits = second.limits.clone();
    limits.sort_by_key(|row| std::cmp::Reverse(row.of));
    assert_eq!(first.limits, limits);
    assert_eq!(first.bindings, second.bindings);
}

#[test]
fn a_file_of_one_vhost_takes_the_vhost_given() {
    let text = r#"{"queues": [{"name": "q", "arguments": {}}], "policies": [{"name": "p",
        "pattern": "", "definition": {"max-length": 1}}]}"#;
    let all = read(text, Some("there")).unwrap();
    assert_eq!(&*all.queues[0].vhost, "there");
    assert!(all.queues[0].declare.durable);
    assert_eq!(&*all.policies[0].vhost, "there");
    assert_eq!(
        refusal(text),
        "policy 'p' (number 1): it names no vhost, and none was given for the whole file"
    );
}

#[test]
fn old_files_have_md5_hashes() {
    let text =
        r#"{"rabbit_version": "3.5.7", "users": [{"name": "a", "password_hash": "AQIDBA=="}]}"#;
    assert_eq!(
        read(text, None).unwrap().users[0].hashing,
        store::password::MD5
    );
}

#[test]
fn an_error_names_the_object() {
    for (text, expected) in [
        (
            r#"{"queues": [{"name": "ok", "vhost": "/"}, {"name": "q", "vhost": 5}]}"#,
            "queue 'q' (number 2): invalid type: integer `5`, expected a string",
        ),
        (
            r#"{"users": [{"name": "u", "password_hash": "?"}]}"#,
            "user 'u' (number 1): its password hash is not base64",
        ),
        (
            r#"{"users": [{"name": "u", "limits": {"max-queues": "1"}}]}"#,
            "user 'u' (number 1): max-queues is no whole number",
        ),
        (
            r#"{"bindings": [{"vhost": "/", "source": "e", "destination": "q",
               "destination_type": "topic"}]}"#,
            "binding 'e' (number 1): 'topic' is no type of destination",
        ),
        (
            "[]",
            "invalid type: sequence, expected a map at line 1 column 0",
        ),
        (r#"{"users": [["u"]]}"#, "user number 1: is no object"),
    ] {
        let found = refusal(text);
        let expected = expected.split(" at line").next().unwrap();
        assert!(found.starts_with(expected), "{found}");
    }
    let long = format!(
        r#"{{"queues": [{{"name": "{}", "vhost": "/"}}]}}"#,
        "x".repeat(256)
    );
    assert!(refusal(&long).ends_with("is longer than 255 bytes"));
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    let deep =
        format!(r#"{{"queues": [{{"name": "q", "vhost": "/", "arguments": {{"x": {deep}}}}}]}}"#);
    assert!(
        refusal(&deep).contains("malformed field table"),
        "{}",
        refusal(&deep)
    );
}
