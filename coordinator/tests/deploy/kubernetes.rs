//! Kubernetes: every document against the type of its kind, and what the objects say of each other.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{DaemonSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Container, Namespace, PodSpec, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{ODD, documents, file, script};

const FILES: [&str; 5] = ["namespace.yaml", "coordinator.yaml", "agents.yaml", "agents-job.yaml", "network.yaml"];

/// The document as its type. What the type does not know, or knows otherwise, would not come back.
fn read<T: DeserializeOwned + Serialize>(document: &Value) -> T {
    let typed: T = serde_json::from_value(document.clone()).unwrap_or_else(|e| panic!("{e}\n{document:#}"));
    let back = serde_json::to_value(&typed).expect("serialises");
    if let Some(place) = difference(document, &back) {
        panic!("the type does not know {}{place}", document["kind"]);
    }
    typed
}

/// The first place at which two documents differ. A quantity is text in the type, and may be written as a number.
fn difference(a: &Value, b: &Value) -> Option<String> {
    let within = |key: &str, a: &Value, b: &Value| difference(a, b).map(|place| format!(".{key}{place}"));
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            let of = |map: &Map<String, Value>, key: &str| map.get(key).cloned().unwrap_or_default();
            keys.into_iter().find_map(|key| within(key, &of(a, key), &of(b, key)))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().find_map(|(i, (a, b))| within(&i.to_string(), a, b))
        }
        (Value::Number(n), Value::String(text)) if *text == n.to_string() => None,
        _ => (a != b).then(String::new),
    }
}

/// Reads a document as what it says it is; returns its kind and, of what has pods, their specification.
fn check(document: &Value) -> (String, Option<PodSpec>) {
    let kind = document["kind"].as_str().expect("a kind").to_owned();
    let pods = match (document["apiVersion"].as_str().expect("a version"), kind.as_str()) {
        ("v1", "Namespace") => {
            read::<Namespace>(document);
            None
        }
        ("v1", "Service") => {
            read::<Service>(document);
            None
        }
        ("networking.k8s.io/v1", "NetworkPolicy") => {
            read::<NetworkPolicy>(document);
            None
        }
        ("apps/v1", "StatefulSet") => read::<StatefulSet>(document).spec.and_then(|s| s.template.spec),
        ("apps/v1", "DaemonSet") => read::<DaemonSet>(document).spec.and_then(|s| s.template.spec),
        ("batch/v1", "Job") => read::<Job>(document).spec.and_then(|s| s.template.spec),
        other => panic!("{other:?} is not expected here"),
    };
    (kind, pods)
}

fn all() -> Vec<Value> {
    FILES.iter().flat_map(|name| documents(&file(&format!("kubernetes/{name}")))).collect()
}

fn the<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    documents.iter().find(|d| d["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

#[test]
fn every_object_is_what_the_api_expects() {
    let objects = all();
    let kinds: Vec<String> = objects.iter().map(|d| check(d).0).collect();
    assert_eq!(
        kinds,
        ["Namespace", "Service", "StatefulSet", "DaemonSet", "Job", "NetworkPolicy", "NetworkPolicy"],
        "each of them was read"
    );
}

#[test]
#[should_panic(expected = "the type does not know \"DaemonSet\".spec.template.spec.nodeSelektor")]
fn a_field_that_the_api_does_not_know_is_found() {
    let mut objects = documents(&file("kubernetes/agents.yaml"));
    objects[0]["spec"]["template"]["spec"]["nodeSelektor"] = "x".into();
    check(&objects[0]);
}

#[test]
fn pods_have_no_more_rights_than_they_need() {
    for document in all() {
        let Some(pod) = check(&document).1 else { continue };
        let what = &document["kind"];
        assert_eq!(pod.automount_service_account_token, Some(false), "{what}");
        assert_eq!(pod.security_context.as_ref().and_then(|s| s.run_as_non_root), Some(true), "{what}");
        let containers: Vec<&Container> = pod.containers.iter().chain(pod.init_containers.iter().flatten()).collect();
        for container in containers {
            let rights = container.security_context.as_ref().expect("rights");
            assert_eq!(rights.allow_privilege_escalation, Some(false), "{what}: {}", container.name);
            assert_eq!(rights.read_only_root_filesystem, Some(true), "{what}: {}", container.name);
            let drop = rights.capabilities.as_ref().and_then(|c| c.drop.clone());
            assert_eq!(drop, Some(vec!["ALL".to_owned()]), "{what}: {}", container.name);
        }
        // Every volume that is mounted is there, and every one that is there is mounted.
        let claims = document["spec"]["volumeClaimTemplates"].as_array().cloned().unwrap_or_default();
        let claims = claims.iter().map(|c| c["metadata"]["name"].as_str().expect("a name").to_owned());
        let mut there: Vec<String> = pod.volumes.iter().flatten().map(|v| v.name.clone()).chain(claims).collect();
        let main = &pod.containers[0];
        let mut mounted: Vec<String> = main.volume_mounts.iter().flatten().map(|m| m.name.clone()).collect();
        there.sort();
        mounted.sort();
        assert_eq!(there, mounted, "{what}");
        // A probe that asks a port which is not there would never be answered.
        let ports: Vec<&str> = main.ports.iter().flatten().filter_map(|p| p.name.as_deref()).collect();
        assert!(main.liveness_probe.is_some() && ports.contains(&"metrics"), "{what}");
    }
}

#[test]
fn objects_find_each_other() {
    let objects = all();
    let (service, set) = (the(&objects, "Service"), the(&objects, "StatefulSet"));
    assert_eq!(service["metadata"]["name"], set["spec"]["serviceName"]);
    assert_eq!(set["spec"]["replicas"], 1, "two coordinators would be two fleets");
    let labels = &set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&service["spec"]["selector"], labels);
    for kind in ["StatefulSet", "DaemonSet"] {
        let object = the(&objects, kind);
        assert_eq!(
            object["spec"]["selector"]["matchLabels"], object["spec"]["template"]["metadata"]["labels"],
            "{kind}"
        );
    }
    let mut policies = objects.iter().filter(|d| d["kind"] == "NetworkPolicy");
    assert_eq!(&policies.next().expect("a policy")["spec"]["podSelector"]["matchLabels"], labels);
    let agents = &the(&objects, "Job")["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&policies.next().expect("a policy")["spec"]["podSelector"]["matchLabels"], agents);
    // Where the agents look for the coordinator.
    let port = &service["spec"]["ports"][0]["port"];
    let url = format!("http://{}:{port}", service["metadata"]["name"].as_str().expect("a name"));
    assert_eq!(
        the(&objects, "DaemonSet")["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"],
        url.as_str()
    );
}

#[test]
fn the_kustomization_names_files_that_are_there_and_images_that_are_used() {
    let kustomization = documents(&file("kubernetes/kustomization.yaml")).remove(0);
    let resources: Vec<&str> =
        kustomization["resources"].as_array().expect("a list").iter().map(|r| r.as_str().expect("a name")).collect();
    let applied: Vec<Value> = resources.iter().flat_map(|r| documents(&file(&format!("kubernetes/{r}")))).collect();
    assert!(applied.iter().all(|d| d["metadata"]["name"].is_string()), "what has no name cannot be applied twice");
    let text = serde_json::to_string(&applied).expect("serialises");
    for image in kustomization["images"].as_array().expect("a list") {
        let used = format!("{}:{}", image["name"].as_str().expect("a name"), image["newTag"].as_str().expect("a tag"));
        assert!(text.contains(&used), "{used} is not used");
    }
}

#[test]
fn what_is_printed_is_right_and_means_what_was_asked_for() {
    let common =
        ["--coordinator", "http://c.example:1", "--label", ODD, "--data", "/srv/a $b: c", "--namespace", "lab"];
    let with = |more: &[&str]| script(&[&["k8s"][..], &common, more].concat());
    let daemons = documents(&with(&["--gpus", "2", "--memory", "1.5GiB", "--tag", "a=b"])).remove(0);
    let (kind, pod) = check(&daemons);
    let pod = pod.expect("pods");
    assert_eq!((kind.as_str(), daemons["metadata"]["namespace"].as_str()), ("DaemonSet", Some("lab")));
    let variable = |pod: &PodSpec, name: &str| {
        let variable = pod.containers[0].env.iter().flatten().find(|e| e.name == name)?;
        // Two dollar signs are one.
        variable.value.as_ref().map(|v| v.replace("$$", "$"))
    };
    assert_eq!(variable(&pod, "FLEET_COORDINATOR").as_deref(), Some("http://c.example:1"));
    assert_eq!(variable(&pod, "FLEET_LABEL").as_deref(), Some(ODD));
    assert_eq!(variable(&pod, "FLEET_TAGS").as_deref(), Some("a=b"));
    assert_eq!(variable(&pod, "FLEET_DEVICES"), None);
    let limits = pod.containers[0].resources.as_ref().and_then(|r| r.limits.clone()).expect("limits");
    assert_eq!((limits["nvidia.com/gpu"].0.as_str(), limits["memory"].0.as_str()), ("2", "1536Mi"));
    let data = pod.volumes.iter().flatten().find(|v| v.name == "data").and_then(|v| v.host_path.clone());
    assert_eq!(data.expect("a folder").path, "/srv/a $b: c");

    let job = documents(&with(&["--agents", "5", "--time", "2h", "--leave-when-idle", "3m"])).remove(0);
    let (kind, pod) = check(&job);
    assert_eq!(kind, "Job");
    assert_eq!(variable(&pod.expect("pods"), "FLEET_LEAVE_WHEN_IDLE").as_deref(), Some("3m"));
    let spec = &job["spec"];
    assert_eq!(
        (&spec["parallelism"], &spec["completions"], &spec["activeDeadlineSeconds"]),
        (&5.into(), &5.into(), &7200.into())
    );
}
