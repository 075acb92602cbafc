//! Users, vhosts, rights, policies, parameters and limits of the model engine.
//!
//! Keeps: deleting a user or a vhost takes along what `AccessChange` says.
//! In: `Memory` applies changes and asks for the image.

use std::collections::BTreeMap;

use super::super::Image;
use crate::log::batch::AccessChange;
use crate::model::*;

type Name = std::sync::Arc<str>;

/// Rows by their keys, in the order of `Image`.
#[derive(Clone, Default)]
pub(super) struct Rows {
    vhosts: BTreeMap<Name, VhostSpec>,
    users: BTreeMap<Name, UserSpec>,
    permissions: BTreeMap<(Name, Name), PermissionSpec>,
    topic_permissions: BTreeMap<(Name, Name, Name), TopicPermissionSpec>,
    policies: BTreeMap<(Name, PolicyKind, Name), PolicySpec>,
    parameters: BTreeMap<(Name, Name, Name), ParameterSpec>,
    limits: BTreeMap<(LimitOf, Name, LimitName), LimitSpec>,
}

impl Rows {
    pub(super) fn apply(&mut self, change: AccessChange) {
        match change {
            AccessChange::PutVhost(row) => {
                self.vhosts.insert(row.name.clone(), row);
            }
            AccessChange::DeleteVhost(name) => self.delete_vhost(&name),
            AccessChange::PutUser(row) => {
                self.users.insert(row.name.clone(), row);
            }
            AccessChange::DeleteUser(name) => self.delete_user(&name),
            AccessChange::PutPermission(row) => {
                let key = (row.vhost.clone(), row.user.clone());
                self.permissions.insert(key, row);
            }
            AccessChange::DeletePermission { vhost, user } => {
                self.permissions.remove(&(vhost, user));
            }
            AccessChange::PutTopicPermission(row) => {
                let key = (row.vhost.clone(), row.user.clone(), row.exchange.clone());
                self.topic_permissions.insert(key, row);
            }
            AccessChange::DeleteTopicPermission {
                vhost,
                user,
                exchange,
            } => {
                self.topic_permissions.remove(&(vhost, user, exchange));
            }
            AccessChange::PutPolicy(row) => {
                let key = (row.vhost.clone(), row.kind, row.name.clone());
                self.policies.insert(key, row);
            }
            AccessChange::DeletePolicy { kind, vhost, name } => {
                self.policies.remove(&(vhost, kind, name));
            }
            AccessChange::PutParameter(row) => {
                let key = (row.vhost.clone(), row.component.clone(), row.name.clone());
                self.parameters.insert(key, row);
            }
            AccessChange::DeleteParameter {
                vhost,
                component,
                name,
            } => {
                self.parameters.remove(&(vhost, component, name));
            }
            AccessChange::PutLimit(row) => {
                self.limits
                    .insert((row.of, row.subject.clone(), row.name), row);
            }
            AccessChange::DeleteLimit { of, subject, name } => {
                self.limits.remove(&(of, subject, name));
            }
        }
    }

    fn delete_vhost(&mut self, name: &Name) {
        self.vhosts.remove(name);
        self.permissions.retain(|(vhost, _), _| vhost != name);
        self.topic_permissions
            .retain(|(vhost, ..), _| vhost != name);
        self.policies.retain(|(vhost, ..), _| vhost != name);
        self.parameters.retain(|(vhost, ..), _| vhost != name);
        self.limits
            .retain(|(of, subject, _), _| *of != LimitOf::Vhost || subject != name);
    }

    fn delete_user(&mut self, name: &Name) {
        self.users.remove(name);
        self.permissions.retain(|(_, user), _| user != name);
        self.topic_permissions
            .retain(|(_, user, _), _| user != name);
        self.limits
            .retain(|(of, subject, _), _| *of != LimitOf::User || subject != name);
    }

    /// An image with these rows and nothing else.
    pub(super) fn image(&self) -> Image {
        Image {
            vhosts: self.vhosts.values().cloned().collect(),
            users: self.users.values().cloned().collect(),
            permissions: self.permissions.values().cloned().collect(),
            topic_permissions: self.topic_permissions.values().cloned().collect(),
            policies: self.policies.values().cloned().collect(),
            parameters: self.parameters.values().cloned().collect(),
            limits: self.limits.values().cloned().collect(),
            ..Image::default()
        }
    }
}
