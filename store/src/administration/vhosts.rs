//! Vhosts and runtime parameters.
//!
//! Keeps: a vhost that goes takes along its queues, exchanges, rules and connections.

use super::*;

impl Shard {
    /// Adds a vhost with its predeclared exchanges, or changes what is said about it.
    ///
    /// # Errors
    /// `PreconditionFailed`: no name, or a type of queues that there is not.
    pub fn put_vhost(&mut self, vhost: VhostSpec) -> Result<()> {
        if vhost.name.is_empty() {
            return Err(invalid(Noun::Vhost, "", "a vhost needs a name"));
        }
        let kind = &*vhost.default_queue_type;
        if !["", "classic", "quorum"].contains(&kind) {
            let detail = format!("'{kind}' is no type of queues here: classic or quorum");
            return Err(invalid(Noun::Vhost, &vhost.name, detail));
        }
        if !self.has_vhost(&vhost.name) {
            self.add_vhost(&vhost.name);
        }
        self.directory
            .vhosts
            .insert(vhost.name.clone(), vhost.clone());
        self.change(AccessChange::PutVhost(vhost));
        Ok(())
    }

    /// Deletes a vhost and all in it; its connections are closed.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn delete_vhost(&mut self, name: &str) -> Result<()> {
        self.need_vhost(name)?;
        let name: Arc<str> = name.into();
        // First, so that clients hear of this and not of each queue.
        let text = format!("vhost '{name}' is deleted");
        self.close_sessions(&text, |_, vhost| *vhost == *name);
        let queues: Vec<QueueId> = self
            .vhosts
            .get(&name)
            .map(|names| names.all_queues().collect())
            .unwrap_or_default();
        for queue in queues {
            self.drop_queue(queue);
        }
        self.vhosts.remove(&name);
        let book = &mut self.directory;
        book.vhosts.remove(&name);
        book.permissions.retain(|(vhost, _), _| *vhost != name);
        book.topic_permissions
            .retain(|(vhost, ..), _| *vhost != name);
        book.parameters.retain(|(vhost, ..), _| *vhost != name);
        book.limits
            .retain(|(of, subject, _), _| *of != LimitOf::Vhost || *subject != name);
        book.changed();
        self.policies.remove_vhost(&name);
        self.change(AccessChange::DeleteVhost(name));
        Ok(())
    }

    /// Adds or replaces a runtime parameter; one without vhost and component is global. It is
    /// kept for tools and has no effect of its own.
    ///
    /// # Errors
    /// `NotFound` without the vhost, `PreconditionFailed` without a name.
    pub fn put_parameter(&mut self, parameter: ParameterSpec) -> Result<()> {
        let is_global = parameter.vhost.is_empty() && parameter.component.is_empty();
        if !is_global {
            self.need_vhost(&parameter.vhost)?;
        }
        check_parameter(&parameter)?;
        let key = (
            parameter.vhost.clone(),
            parameter.component.clone(),
            parameter.name.clone(),
        );
        self.directory.parameters.insert(key, parameter.clone());
        self.change(AccessChange::PutParameter(parameter));
        Ok(())
    }

    /// # Errors
    /// `NotFound`.
    pub fn delete_parameter(&mut self, vhost: &str, component: &str, name: &str) -> Result<()> {
        let key: (Arc<str>, Arc<str>, Arc<str>) = (vhost.into(), component.into(), name.into());
        if self.directory.parameters.remove(&key).is_none() {
            return Err(missing(Noun::Parameter, name));
        }
        let (vhost, component, name) = key;
        self.change(AccessChange::DeleteParameter {
            vhost,
            component,
            name,
        });
        Ok(())
    }
}

pub(super) fn check_parameter(parameter: &ParameterSpec) -> Result<()> {
    if parameter.name.is_empty() || (parameter.component.is_empty() != parameter.vhost.is_empty()) {
        let reason = "a parameter needs a name, and a component unless it is global";
        return Err(invalid(Noun::Parameter, &parameter.name, reason));
    }
    Ok(())
}
