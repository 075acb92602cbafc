//! Commands as an operator gives them, on a store in memory and over the socket.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use serde_json::json;
use store::sql::memory::Memory;
use store::{Options, Store};
use tokio_util::sync::CancellationToken;

use super::*;

async fn open(disk: &Arc<Memory>) -> Store {
    Store::open(disk.clone(), Options::default()).await.unwrap()
}

fn command(value: Json) -> Command {
    serde_json::from_value(value).unwrap()
}

async fn rows(store: &Store, list: Json) -> Vec<Vec<Json>> {
    match run(store, command(list)).await.unwrap() {
        Answer::Table { rows, .. } => rows,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_set_is_listed_after_a_restart_and_gone_when_cleared() {
    let disk = Arc::new(Memory::new());
    let store = open(&disk).await;
    let at = |mut more: Json| {
        more["vhost"] = "v".into();
        more
    };
    let sets = [
        json!({"vhost-add": {"name": "v", "description": "d", "tags": ["t"], "default_queue_type": "quorum"}}),
        json!({"user-add": {"name": "u", "password": "p", "tags": ["monitoring"]}}),
        json!({"user-tags": {"name": "u", "tags": ["management", "x"]}}),
        json!({"user-password": {"name": "u", "password": "q"}}),
        json!({"permission-set": at(json!({"user": "u", "configure": "a", "write": "b", "read": ""}))}),
        json!({"topic-permission-set":
            at(json!({"user": "u", "exchange": "x", "write": "a", "read": "b"}))}),
        json!({"policy-set": at(json!({"operator": false, "name": "p", "pattern": "^q",
            "apply_to": "queues", "priority": 2, "definition": {"max-length": 5}}))}),
        json!({"policy-set": at(json!({"operator": true, "name": "p", "pattern": "^q",
            "apply_to": "queues", "priority": 2, "definition": {"expires": 5}}))}),
        json!({"parameter-set": at(json!({"component": "c", "name": "n", "value": [1]}))}),
        json!({"parameter-set":
            {"vhost": "", "component": "", "name": "cluster_name", "value": "here"}}),
        json!({"limit-set": {"subject": {"user": "u"}, "name": "max-channels", "value": 7}}),
        json!({"limit-set": {"subject": {"vhost": "v"}, "name": "max-queues", "value": 8}}),
    ];
    for set in sets {
        assert_eq!(run(&store, command(set)).await, Ok(Answer::Done));
    }
    let store = open(&Arc::new(disk.crash())).await;
    let only = json!({"vhost": "v"});
    let policies = |operator| json!({"policy-list": {"operator": operator}});
    for (list, expected) in [
        (json!("user-list"), json!(["u", ["management", "x"]])),
        (json!("vhost-list"), json!(["v", "d", ["t"], "quorum"])),
        (
            json!({"permission-list": only}),
            json!(["v", "u", "a", "b", ""]),
        ),
        (
            json!({"topic-permission-list": only}),
            json!(["v", "u", "x", "a", "b"]),
        ),
        (
            policies(false),
            json!(["v", "p", "^q", "queues", 2, {"max-length": 5}]),
        ),
        (
            policies(true),
            json!(["v", "p", "^q", "queues", 2, {"expires": 5}]),
        ),
        (
            json!({"parameter-list": {"global": false}}),
            json!(["v", "c", "n", [1]]),
        ),
        (
            json!({"parameter-list": {"global": true}}),
            json!(["cluster_name", "here"]),
        ),
        (json!("limit-list"), json!(["user", "u", "max-channels", 7])),
    ] {
        let found = rows(&store, list).await;
        assert_eq!(found.last().map(|row| json!(row)), Some(expected));
    }
    assert!(store.check_password("u", "q", false) && !store.check_password("u", "p", false));
    for clear in [
        json!({"limit-clear": {"subject": {"user": "u"}}}),
        json!({"topic-permission-clear": at(json!({"user": "u"}))}),
        json!({"permission-clear": at(json!({"user": "u"}))}),
        json!({"policy-clear": at(json!({"operator": true, "name": "p"}))}),
        json!({"parameter-clear": at(json!({"component": "c", "name": "n"}))}),
        json!({"user-delete": {"name": "u"}}),
        json!({"vhost-delete": {"name": "v"}}),
    ] {
        assert_eq!(run(&store, command(clear)).await, Ok(Answer::Done));
    }
    assert_eq!(rows(&store, json!("vhost-list")).await.len(), 1);
    for list in [
        policies(false),
        policies(true),
        json!("limit-list"),
        json!({"topic-permission-list": {}}),
    ] {
        assert!(rows(&store, list).await.is_empty());
    }
}

#[tokio::test]
async fn what_was_there_first_can_be_deleted_for_good() {
    let disk = Arc::new(Memory::new());
    let store = open(&disk).await;
    for change in [
        json!({"vhost-add": {"name": "v", "description": "", "tags": []}}),
        json!({"vhost-delete": {"name": "/"}}),
        json!({"user-delete": {"name": "guest"}}),
    ] {
        assert_eq!(run(&store, command(change)).await, Ok(Answer::Done));
    }
    let store = open(&Arc::new(disk.crash())).await;
    assert_eq!(
        rows(&store, json!("vhost-list")).await,
        [[json!("v"), json!(""), json!([]), json!("")]]
    );
    assert!(rows(&store, json!("user-list")).await.is_empty());
}

#[tokio::test]
async fn a_refusal_says_what_is_wrong() {
    let store = open(&Arc::new(Memory::new())).await;
    for (refused, expected) in [
        (
            json!({"user-add": {"name": "guest", "password": "p", "tags": []}}),
            "user 'guest' exists",
        ),
        (
            json!({"user-add": {"name": "u", "password": "", "tags": []}}),
            "an empty password lets nobody in; give one",
        ),
        (json!({"user-delete": {"name": "u"}}), "no user 'u'"),
        (
            json!({"vhost-add": {"name": "/", "description": "", "tags": []}}),
            "vhost '/' exists",
        ),
        (
            json!({"permission-set": {"vhost": "/", "user": "guest", "configure": "(",
                "write": "", "read": ""}}),
            "permission 'guest@/': the configure pattern '(' cannot be used: unclosed group",
        ),
        (
            json!({"limit-set": {"subject": {"user": "guest"}, "name": "max-queues", "value": 1}}),
            "limit 'max-queues': a user has no such limit",
        ),
        (
            json!({"definitions-export": {"vhost": "v"}}),
            "no vhost 'v'",
        ),
    ] {
        assert_eq!(
            run(&store, command(refused)).await,
            Err(expected.to_owned())
        );
    }
}

#[tokio::test]
async fn an_import_is_whole_or_nothing() {
    let store = open(&Arc::new(Memory::new())).await;
    let import = |text: Json| {
        let text = text.to_string();
        command(json!({"definitions-import": {"text": text}}))
    };
    let queue = |name: &str, arguments: Json| json!({"vhost": "v", "name": name, "durable": true, "arguments": arguments});
    let file = |last: Json| {
        json!({
            "vhosts": [{"name": "v"}],
            "users": [{"name": "u", "password": "p", "tags": ""}],
            "permissions":
                [{"vhost": "v", "user": "u", "configure": "", "write": "", "read": ".*"}],
            "exchanges": [{"vhost": "v", "name": "e", "type": "fanout", "durable": true}],
            "queues": [queue("q1", json!({})), last],
            "bindings": [{"vhost": "v", "source": "e", "destination": "q1",
                "destination_type": "queue"}],
            "policies": [{"vhost": "v", "name": "p", "pattern": "", "definition": {"expires": 9}}],
        })
    };
    let before = run(&store, command(json!({"definitions-export": {}}))).await;
    let refused = run(&store, import(file(queue("q2", json!({"x-expires": 0}))))).await;
    assert_eq!(
        refused,
        Err("invalid arg 'x-expires' for queue 'q2' in vhost 'v': {value_zero,0}".into())
    );
    let after = run(&store, command(json!({"definitions-export": {}}))).await;
    assert_eq!(before, after);
    let done = run(
        &store,
        import(file(queue("q2", json!({"x-expires": 60000})))),
    )
    .await;
    assert_eq!(done, Ok(Answer::Done));
    let Ok(Answer::Text(text)) = run(&store, command(json!({"definitions-export": {}}))).await
    else {
        panic!("no text");
    };
    let names = |kind: &str| {
        let file: Json = serde_json::from_str(&text).unwrap();
        let rows = file[kind].as_array().unwrap().clone();
        rows.iter()
            .map(|row| row["name"].as_str().unwrap_or("").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names("queues"), ["q1", "q2"]);
    assert_eq!(
        (names("exchanges"), names("bindings").len()),
        (vec!["e".to_owned()], 1)
    );
    // A second time changes nothing.
    let again = import(serde_json::from_str(&text).unwrap());
    assert_eq!(run(&store, again).await, Ok(Answer::Done));
    let twice = run(&store, command(json!({"definitions-export": {}}))).await;
    assert_eq!(twice, Ok(Answer::Text(text)));
}

#[tokio::test]
async fn the_socket_answers_its_owner_and_goes_with_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = client::ask(folder.path(), Command::UserList).unwrap();
    assert!(nobody.is_err(), "no server, so the command comes back");
    let store = open(&Arc::new(Memory::new())).await;
    let stop = CancellationToken::new();
    let served = socket::serve(folder.path(), store, stop.clone())
        .await
        .unwrap();
    let path = folder.path().join(SOCKET);
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let place = folder.path().to_owned();
    let (listed, refused) = tokio::task::spawn_blocking(move || {
        let delete = Command::UserDelete { name: "u".into() };
        (
            client::ask(&place, Command::UserList),
            client::ask(&place, delete),
        )
    })
    .await
    .unwrap();
    assert!(matches!(listed, Ok(Ok(Answer::Table { rows, .. })) if rows.len() == 1));
    let refused = refused.err().map(|error| error.to_string());
    assert_eq!(refused.as_deref(), Some("no user 'u'"));
    stop.cancel();
    served.await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_long_list_comes_in_pages_that_make_it_whole() {
    let store = open(&Arc::new(Memory::new())).await;
    store.declare_work_queue("/", "q").await.unwrap();
    let messages: Vec<(Vec<u8>, Vec<u8>)> = vec![(vec![0, 0], vec![7]); 2_345];
    store
        .publish_to_queue(("/", "q"), &messages, None)
        .await
        .unwrap();
    let walk = async |limit: Option<u64>| {
        let (mut seqs, mut pages) = (Vec::new(), 0);
        let mut asked = command(json!({"messages": {
            "vhost": "/", "queue": "q", "dead": false, "verb": {
                "list": {"waiting": false, "span": {"cursor": null, "limit": limit}},
            },
            "meant": {"ids": [], "since": null, "until": null, "reason": null,
                      "routing_key": null, "headers": []},
        }}));
        loop {
            let Ok(Answer::Page { rows, next, .. }) = run(&store, asked.clone()).await else {
                panic!("no page");
            };
            pages += 1;
            seqs.extend(rows.iter().filter_map(|row| row[0].as_u64()));
            let rest = next.and_then(|next| asked.span()?.after(rows.len() as u64, next));
            match rest {
                Some(rest) => *asked.span().unwrap() = rest,
                None => return (seqs, pages),
            }
        }
    };
    assert_eq!(walk(None).await, ((0..2_345).collect(), 3));
    assert_eq!(walk(Some(1_500)).await, ((0..1_500).collect(), 2));
    assert_eq!(walk(Some(3)).await, ((0..3).collect(), 1));
}
