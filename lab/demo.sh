#!/bin/sh
# The whole story on the lab's host: lab up, clients, plan, apply, report, rollback; ends with where the report is.
set -eu

bin=.venv/bin
lab_host=gpu01
MIGRATE_INVENTORY=inventory/lab
export MIGRATE_INVENTORY
began=$(date +%s)

step() { printf '\n== %s (%s s)\n' "$*" "$(($(date +%s) - began))"; }

step "the lab: a host with Triton, Docker, nginx and systemd"
$bin/migrate lab up

step "clients: 8 keep-alive connections, POST and streams, until the end"
mkdir -p runs
$bin/migrate witness --host $lab_host --clients 8 --until-stopped 2>runs/witness.log &
witness=$!
trap 'kill $witness 2>/dev/null || true' EXIT
sleep 5

step "plan"
$bin/migrate plan --host $lab_host -o runs/$lab_host.plan.json

step "apply"
$bin/migrate apply runs/$lab_host.plan.json

step "apply a second time: nothing to do"
$bin/migrate apply --host $lab_host

step "status"
$bin/migrate status --host $lab_host

step "rollback, to before vLLM was deployed"
$bin/migrate rollback --host $lab_host --to before-deploy

step "the witness"
kill -TERM $witness
trap - EXIT
wait $witness

step "report"
$bin/migrate report --host $lab_host
