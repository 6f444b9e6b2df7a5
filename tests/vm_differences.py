"""Tests of containers that do not hold for virtual machines, and why: docs/isolation.md has the same."""

from __future__ import annotations

DIFFERENCES = {
    "test_host_network_and_shared_namespaces": "A machine shares no namespace of the host's kernel or of other containers: "
    "host and container: modes are refused.",
    "test_p075_propagation": "Mounts made in a guest are the guest's kernel's: they do not propagate to the host. "
    "Those of the host do propagate to a guest, with rslave.",
    "test_p041_the_end_of_a_client_and_its_exec": "A guest's processes are not on the host, where the test looks for them.",
    "test_copying_and_starting_at_the_same_time": "A machine's disk is opened by one guest at a time: see test_everyday.",
    "test_a_working_directory_that_cannot_be": "A machine's files are first looked at by its own kernel: its start says so.",
    "test_everyday_in_builds": "Steps of a build run on the host's kernel.",
    "test_everyday_in_the_runtime": "The runtime's own command line.",
    "test_a_device_in_a_shared_volume": "The host's devices are none of a machine's: see docs/isolation.md.",
    "test_t54_copying_into_a_running_container": "What exchanges names is on the host, and a guest's files are not.",
    "test_copying_out_of_a_running_container": "What exchanges names is on the host, and a guest's files are not.",
    "test_cp_to_a_directory_that_others_write_to": "It is about the host's side of a copy.",
    "test_s026_the_sub_path_of_a_cache_mount": "Steps of a build run on the host's kernel.",
    "test_s027_a_bind_from_a_stage": "Steps of a build run on the host's kernel.",
}
