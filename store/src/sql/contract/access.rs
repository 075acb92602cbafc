//! Vhosts, users, rights, policies, parameters and limits: written, replaced, deleted together.

use super::*;

pub(super) fn vhost(name: &str) -> VhostSpec {
    VhostSpec {
        name: name.into(),
        description: format!("about {name}"),
        tags: "a,b".into(),
        default_queue_type: "quorum".into(),
    }
}

fn user(name: &str) -> UserSpec {
    UserSpec {
        name: name.into(),
        password_hash: String::new(),
        hashing: crate::password::SHA256.into(),
        tags: String::new(),
    }
}

fn permission(vhost: &str, user: &str) -> PermissionSpec {
    PermissionSpec {
        vhost: vhost.into(),
        user: user.into(),
        configure: "^c".into(),
        write: String::new(),
        read: ".*".into(),
    }
}

fn topic(vhost: &str, user: &str, exchange: &str) -> TopicPermissionSpec {
    TopicPermissionSpec {
        vhost: vhost.into(),
        user: user.into(),
        exchange: exchange.into(),
        write: "^{username}".into(),
        read: ".*".into(),
    }
}

fn policy(kind: PolicyKind, vhost: &str, name: &str) -> PolicySpec {
    PolicySpec {
        kind,
        vhost: vhost.into(),
        name: name.into(),
        pattern: "^q".into(),
        apply_to: ApplyTo::ClassicQueues,
        priority: -3,
        definition: vec![1, 2, 3],
    }
}

fn parameter(vhost: &str, component: &str, name: &str) -> ParameterSpec {
    ParameterSpec {
        vhost: vhost.into(),
        component: component.into(),
        name: name.into(),
        value: "{\"a\":[1]}".into(),
    }
}

fn limit(of: LimitOf, subject: &str, name: LimitName) -> LimitSpec {
    LimitSpec {
        of,
        subject: subject.into(),
        name,
        value: -1,
    }
}

fn changes(changes: impl IntoIterator<Item = AccessChange>) -> Batch {
    Batch {
        definitions: changes.into_iter().map(DefinitionChange::Access).collect(),
        ..Batch::default()
    }
}

/// Everything in two vhosts and for two users, not in the order in which it is listed.
fn everything() -> Batch {
    use PolicyKind::{Operator, User};
    let mut all = Vec::new();
    for place in ["b", "a"] {
        all.push(AccessChange::PutVhost(vhost(place)));
        for person in ["w", "v"] {
            all.push(AccessChange::PutUser(user(person)));
            all.push(AccessChange::PutPermission(permission(place, person)));
            all.push(AccessChange::PutTopicPermission(topic(place, person, "y")));
            all.push(AccessChange::PutTopicPermission(topic(place, person, "x")));
        }
        all.push(AccessChange::PutPolicy(policy(Operator, place, "one")));
        all.push(AccessChange::PutPolicy(policy(User, place, "two")));
        all.push(AccessChange::PutPolicy(policy(User, place, "one")));
        all.push(AccessChange::PutParameter(parameter(place, "c", "p")));
    }
    all.push(AccessChange::PutParameter(parameter("", "", "global")));
    for (of, subject) in [(LimitOf::User, "v"), (LimitOf::Vhost, "a")] {
        for name in [LimitName::MaxQueues, LimitName::MaxConnections] {
            all.push(AccessChange::PutLimit(limit(of, subject, name)));
        }
    }
    changes(all)
}

pub(super) async fn rules_come_back_in_order(bench: Bench) {
    use PolicyKind::{Operator, User};
    bench.commit(everything()).await.unwrap();
    let bench = bench.reopen().await;
    let image = bench.load().await;
    assert_eq!(image.vhosts, [vhost("a"), vhost("b")]);
    assert_eq!(image.users, [user("v"), user("w")]);
    assert_eq!(image.permissions[1], permission("a", "w"));
    let topics: Vec<_> = image.topic_permissions.iter().take(3).collect();
    let expected = [
        topic("a", "v", "x"),
        topic("a", "v", "y"),
        topic("a", "w", "x"),
    ];
    assert_eq!(topics, expected.iter().collect::<Vec<_>>());
    let expected = [
        policy(User, "a", "one"),
        policy(User, "a", "two"),
        policy(Operator, "a", "one"),
    ];
    assert_eq!(image.policies[..3], expected);
    let expected = [
        parameter("", "", "global"),
        parameter("a", "c", "p"),
        parameter("b", "c", "p"),
    ];
    assert_eq!(image.parameters, expected);
    let expected = [
        limit(LimitOf::Vhost, "a", LimitName::MaxConnections),
        limit(LimitOf::Vhost, "a", LimitName::MaxQueues),
        limit(LimitOf::User, "v", LimitName::MaxConnections),
        limit(LimitOf::User, "v", LimitName::MaxQueues),
    ];
    assert_eq!(image.limits, expected);
    done(bench).await;
}

pub(super) async fn a_rule_is_replaced_and_deleted(bench: Bench) {
    use PolicyKind::{Operator, User};
    bench.commit(everything()).await.unwrap();
    let other = PolicySpec {
        priority: 9,
        apply_to: ApplyTo::All,
        ..policy(User, "a", "one")
    };
    let named = VhostSpec {
        description: "new".into(),
        ..vhost("a")
    };
    let (at, component, name) = ("b".into(), "c".into(), "p".into());
    let batch = changes([
        AccessChange::PutPolicy(other.clone()),
        AccessChange::PutVhost(named.clone()),
        AccessChange::DeletePolicy {
            kind: Operator,
            vhost: "a".into(),
            name: "one".into(),
        },
        AccessChange::DeletePermission {
            vhost: "a".into(),
            user: "v".into(),
        },
        AccessChange::DeleteTopicPermission {
            vhost: "a".into(),
            user: "v".into(),
            exchange: "x".into(),
        },
        AccessChange::DeleteParameter {
            vhost: at,
            component,
            name,
        },
        AccessChange::DeleteLimit {
            of: LimitOf::Vhost,
            subject: "a".into(),
            name: LimitName::MaxConnections,
        },
    ]);
    bench.commit(batch).await.unwrap();
    let image = bench.load().await;
    assert_eq!(image.vhosts[0], named);
    assert_eq!(image.policies[0], other);
    assert_eq!(image.policies.len(), 5);
    assert_eq!(image.permissions.len(), 3);
    assert_eq!(image.permissions[0], permission("a", "w"));
    assert_eq!(image.topic_permissions[0], topic("a", "v", "y"));
    assert_eq!(image.parameters.len(), 2);
    assert_eq!(image.limits.len(), 3);
    assert_eq!(image.limits[0].name, LimitName::MaxQueues);
    done(bench).await;
}

pub(super) async fn a_deleted_user_leaves_no_right_behind(bench: Bench) {
    bench.commit(everything()).await.unwrap();
    let gone = AccessChange::DeleteUser("v".into());
    bench.commit(changes([gone])).await.unwrap();
    let image = bench.load().await;
    assert_eq!(image.users, [user("w")]);
    assert!(image.permissions.iter().all(|row| &*row.user == "w"));
    assert!(image.topic_permissions.iter().all(|row| &*row.user == "w"));
    assert_eq!(
        (image.permissions.len(), image.topic_permissions.len()),
        (2, 4)
    );
    assert!(image.limits.iter().all(|row| row.of == LimitOf::Vhost));
    assert_eq!((image.limits.len(), image.vhosts.len()), (2, 2));
    done(bench).await;
}

pub(super) async fn a_deleted_vhost_leaves_nothing(bench: Bench) {
    bench.commit(everything()).await.unwrap();
    bench.commit(full_batch()).await.unwrap();
    let before = bench.load().await;
    let gone = AccessChange::DeleteVhost("a".into());
    bench.commit(changes([gone])).await.unwrap();
    let image = bench.load().await;
    assert_eq!(image.vhosts, [vhost("/"), vhost("b")]);
    assert_eq!(image.users, before.users);
    assert!(image.permissions.iter().all(|row| &*row.vhost != "a"));
    assert!(image.topic_permissions.iter().all(|row| &*row.vhost == "b"));
    assert!(image.policies.iter().all(|row| &*row.vhost == "b"));
    assert_eq!(image.parameters.len(), 2, "the global one stays");
    assert!(image.limits.iter().all(|row| row.of == LimitOf::User));
    assert_eq!(image.exchanges, before.exchanges);

    let gone = AccessChange::DeleteVhost("/".into());
    bench.commit(changes([gone])).await.unwrap();
    let image = bench.load().await;
    assert!(image.exchanges.is_empty() && image.bindings.is_empty());
    assert_eq!(image.queues, before.queues, "queues go one by one");
    done(bench).await;
}
