#!/bin/sh
# Measures everything that docs/performance.md shows, into *.jsonl beside this
# file. About an hour on a quiet machine; single series: record.sh clients ...
#
#   COUNT, ROUNDS, WARMUP, CLIENTS   make it shorter (COUNT=20 ROUNDS=1 ...)
#   STORED                           certificates of the series "stored"
#   SECONDS_OVER                     time of the series "overload"
#   MIXED, ESTATE, MANAGED           time of the series "control", inventory and
#                                    managed certificates of it
#   AGENTS                           agents of the series "agents"
#   DISK, MEM                        directories on a disk and in memory
#   BIN                              the program, bin/chancery
#   STEP_CA, PEBBLE                  peers to measure in the series "peers"
#                                    (go install github.com/smallstep/certificates/cmd/step-ca@latest
#                                    and github.com/letsencrypt/pebble/v2/cmd/pebble@latest)
#
# PostgreSQL is started from its own programs if they are installed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
BIN=${BIN:-$here/../../bin/chancery}
COUNT=${COUNT:-5000} ROUNDS=${ROUNDS:-3} WARMUP=${WARMUP:-3s} CLIENTS=${CLIENTS:-1,5,10,25,50,100,200}
STORED=${STORED:-1000000} SECONDS_OVER=${SECONDS_OVER:-20} MIXED=${MIXED:-5m} ESTATE=${ESTATE:-1000000} MANAGED=${MANAGED:-10000} DISK=${DISK:-${TMPDIR:-/tmp}} MEM=${MEM:-/dev/shm} OUT=${OUT:-$here}
work=$(mktemp -d "$DISK/chancery-record.XXXXXX")
mem=$(mktemp -d "$MEM/chancery-record.XXXXXX")
server= pg=
stop() {
	[ -z "$server" ] || { kill "$server" 2>/dev/null || true; while kill -0 "$server" 2>/dev/null; do sleep 0.1; done; server=; }
}
finish() {
	stop
	[ -z "$pg" ] || as_postgres "$pgbin/pg_ctl" -D "$pg/data" -m fast stop >/dev/null || true
	rm -rf "$work" "$mem" ${pg:+"$pg"}
}
trap finish EXIT
trap 'exit 130' INT TERM

# start DIR [flag ...]: a server whose data is in DIR.
start() {
	dir=$1; shift
	mkdir -p "$dir"
	rm -f "$dir/ready"
	CHANCERY_LOG_LEVEL=${LOG_LEVEL:-info} "$BIN" dev --data "$dir" --ready-file "$dir/ready" ${limits---no-limits} --listen 127.0.0.1:19443 --http-listen 127.0.0.1:19080 \
		--debug-listen 127.0.0.1:19081 --http01-port 19002 --tlsalpn01-port 19001 --resolver 127.0.0.1:19053 "$@" >"$dir/log" 2>&1 &
	server=$!
	tries=0
	until [ -s "$dir/ready" ]; do
		tries=$((tries + 1))
		kill -0 "$server" 2>/dev/null && [ $tries -lt 6000 ] || { tail -5 "$dir/log" >&2; exit 1; }
		sleep 0.1
	done
}

# settle waits until the server has caught up with what it found stored (the
# inventory follows, answers are signed): under a fifth of a core for 5 s.
settle() {
	tries=0
	until [ "$(busy 5)" -lt 20 ]; do
		tries=$((tries + 1))
		[ $tries -lt 240 ] || { echo "the server does not come to rest" >&2; exit 1; }
	done
}

# busy SECONDS: per cent of one core that the server uses.
busy() {
	before=$(ticks); sleep "$1"; after=$(ticks)
	echo $(((after - before) * 100 / $(getconf CLK_TCK) / $1))
}

ticks() { sed 's/.*) //' "/proc/$server/stat" | awk '{ print $12 + $13 }'; }

# measure SERIES LABEL [flag ...]
measure() {
	file=$OUT/$1.jsonl label=$2
	shift 2
	echo "== $(basename "$file" .jsonl): $label" >&2
	"$BIN" bench issue --ready-file "$dir/ready" --http01-listen 127.0.0.1:19002 --tlsalpn01-listen 127.0.0.1:19001 --dns-listen 127.0.0.1:19053 \
		--rounds "$ROUNDS" --warmup "$WARMUP" --count "$COUNT" --duration 10m --json "$file" --label "$label" "$@" || [ $? -eq 4 ]
}

fresh() { rm -f "$OUT/$1.jsonl"; n_dir=$((${n_dir:-0} + 1)); }

clients() {
	fresh clients
	start "$work/$n_dir"
	measure clients "SQLite on disk" --clients "$CLIENTS"
	stop
}

databases() {
	fresh databases
	start "$work/$n_dir"; measure databases "SQLite, disk" --clients 1,25,50; stop
	start "$mem/$n_dir"; measure databases "SQLite, memory" --clients 1,25,50; stop
	if postgres; then
		start "$work/$n_dir-pg" --db "$(database)"
		measure databases "PostgreSQL, disk" --clients 1,25,50 --server-pid "$server" --server-pid "$(pgpid)"
		stop
	fi
}

subjects() {
	fresh subjects
	start "$work/$n_dir"
	for kt in p256 p384 ed25519 rsa2048 rsa4096 ml-dsa-65; do
		case $kt in rsa*) reuse=--reuse-keys ;; *) reuse= ;; esac
		measure subjects "$kt" --clients 25 --key-type "$kt" $reuse
	done
	stop
}

accounts() {
	fresh accounts
	start "$work/$n_dir"
	for kt in p256 p384 ed25519 rsa2048 ml-dsa-65; do measure accounts "$kt" --clients 25 --account-key-type "$kt"; done
	stop
}

authorities() {
	fresh authorities
	for kt in p256 p384 ed25519 rsa2048 rsa4096 ml-dsa-44 ml-dsa-65 ml-dsa-87; do
		start "$work/$n_dir-$kt" --ca-key-type "$kt"
		measure authorities "$kt" --clients 25
		stop
	done
}

saturation() {
	fresh saturation
	start "$work/$n_dir" --ca-key-type rsa4096
	measure saturation "RSA-4096 authority" --clients "$CLIENTS"
	stop
}

challenges() {
	fresh challenges
	start "$work/$n_dir"
	for type in http-01 dns-01 tls-alpn-01; do measure challenges "$type" --clients 25 --challenge "$type" --suffix bench.example.com; done
	stop
}

names() {
	fresh names
	start "$work/$n_dir"
	for n in 1 2 10; do measure names "$n" --clients 25 --names $n; done
	stop
}

pools() {
	fresh pools
	for n in 1 4 16; do
		CHANCERY_DATABASE_READ_POOL=$n start "$work/$n_dir-$n"
		measure pools "SQLite, $n readers" --clients 50
		stop
	done
	postgres || return 0
	for n in 4 8 16 32; do
		url=$(database)
		CHANCERY_DATABASE_WRITE_POOL=$n start "$work/$n_dir-pg$n" --db "$url"
		measure pools "PostgreSQL, $n writers" --clients 50 --server-pid "$server" --server-pid "$(pgpid)"
		stop
	done
}

overload() {
	fresh overload
	start "$work/$n_dir"
	rate=$("$BIN" bench issue --ready-file "$dir/ready" --http01-listen 127.0.0.1:19002 --clients 50 --rounds 1 --warmup "$WARMUP" --count "$COUNT" --duration 10m --json - |
		sed -n 's/.*"per_second":{"median":\([0-9]*\).*/\1/p')
	for factor in 5 10 20; do
		"$BIN" bench issue --ready-file "$dir/ready" --http01-listen 127.0.0.1:19002 --clients 2000 --rate $((rate * factor / 10)) --rounds 1 --warmup "$WARMUP" \
			--duration "${SECONDS_OVER}s" --json "$OUT/overload.jsonl" --label "$factor/10 of $rate/s" || [ $? -eq 4 ]
	done
	stop
}

flood() {
	fresh flood
	limits=
	start "$work/$n_dir"
	unset limits
	measure flood "200 clients of one account" --flood 200 --clients 8 --rate 50 --count 0 --duration 6s
	stop
}

stored() {
	fresh stored
	start "$work/$n_dir"; measure stored "empty" --clients 25; stop
	n_dir=$((n_dir + 1))
	start "$work/$n_dir"; stop
	"$BIN" bench fill --data "$work/$n_dir" --certificates "$STORED"
	start "$work/$n_dir"; settle; measure stored "$STORED certificates" --clients 25; stop
}

record() {
	fresh record
	start "$work/$n_dir"
	# One after the other, each of 4 s: the profiles of contention cost something.
	(
		sleep 5
		for kind in profile allocs mutex block; do
			curl -s -o "$work/$kind.pb" "http://127.0.0.1:19081/debug/pprof/$kind?seconds=4"
		done
	) &
	ROUNDS=1 COUNT=$((COUNT * 4)) measure record "the record" --clients 50
	wait $! || true
	if [ -s "$work/block.pb" ] && command -v go >/dev/null; then
		{
			echo "CPU, 4 s"
			pprof profile | grep -E 'flat%|VerifyASN1|SignASN1|runBatch|liteConn\)\.(call|raw)$|Xfsync|server\.\(\*Server\)\.(validate|post|posted|newOrder|finalize|postChallenge|postAuthz|getCertificate|admit)$|ca\.\(\*Service\)\.(lint|plan|execute)$|gcBgMarkWorker$|readRequest$|mallocgc$|tls\.\(\*Conn\)\.(Read|Write)$'
			for kind in allocs mutex block; do
				case $kind in allocs) what="Allocated, in 4 s" ;; mutex) what="Waited for contended locks, in 4 s" ;; *) what="Blocked (workers that wait for work included), in 4 s" ;; esac
				printf '\n%s\n' "$what"
				pprof $kind | grep -E 'flat%|chancery/|crypto/|net/http' | head -13
			done
		} >"$OUT/profile.txt"
	fi
	stop
}

# pprof KIND prints the heaviest calls of a profile, callees included.
pprof() {
	case $1 in allocs) index=alloc_space ;; profile) index=cpu ;; *) index=delay ;; esac
	go tool pprof -top -cum -nodecount 300 -sample_index=$index "$BIN" "$work/$1.pb" 2>/dev/null
}

# peers measures other ACME servers in the same minutes as ours: the same client,
# the same load, each with its own defaults but for ports and the resolver.
peers() {
	fresh peers
	start "$work/$n_dir"; measure peers "chancery, SQLite on disk" --clients 10,50; stop
	start "$mem/$n_dir"; measure peers "chancery, SQLite in memory" --clients 10,50; stop
	if [ -x "${STEP_CA:-}" ]; then
		step_ca "$work/$n_dir-step"; peer "step-ca, its store on disk" https://localhost:19500/acme/acme/directory "$dir/root.pem"
		step_ca "$mem/$n_dir-step"; peer "step-ca, its store in memory" https://localhost:19500/acme/acme/directory "$dir/root.pem"
	fi
	if [ -x "${PEBBLE:-}" ]; then
		# Pebble waits and refuses nonces at random unless told not to. With 10
		# clients it stopped answering, so it gets 5.
		pebble "$work/$n_dir-pebble"; peer "Pebble, in memory" https://localhost:19500/dir "$dir/root.pem" 5
	fi
}

# peer LABEL DIRECTORY ROOT [CLIENTS]: measures the peer that runs, and ends it.
peer() {
	tries=0
	until curl -s -o /dev/null --cacert "$3" "$2"; do
		tries=$((tries + 1))
		kill -0 "$server" 2>/dev/null && [ $tries -lt 100 ] || { tail -5 "$dir/log" >&2; exit 1; }
		sleep 0.1
	done
	echo "== peers: $1" >&2
	"$BIN" bench issue --directory "$2" --root "$3" --http01-listen 127.0.0.1:19002 --dns-listen 127.0.0.1:19053 --suffix bench.example.com \
		--server-pid "$server" --clients "${4:-10,50}" --rounds "$ROUNDS" --warmup "$WARMUP" --count "$COUNT" --duration 30s \
		--json "$OUT/peers.jsonl" --label "$1" || [ $? -eq 4 ]
	stop
}

# chain DIR makes a root, an issuing authority and a certificate for localhost.
chain() {
	mkdir -p "$1"
	(
		cd "$1"
		req() { openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$1" -keyout "$1.key" -out "$1.csr" 2>/dev/null; }
		openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=root -keyout root.key -out root.pem -days 30 \
			-addext keyUsage=critical,keyCertSign,cRLSign 2>/dev/null
		req issuing; req localhost
		printf 'basicConstraints=critical,CA:true,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n' >ca.ext
		printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' >leaf.ext
		openssl x509 -req -in issuing.csr -CA root.pem -CAkey root.key -CAcreateserial -days 20 -extfile ca.ext -out issuing.pem 2>/dev/null
		openssl x509 -req -in localhost.csr -CA root.pem -CAkey root.key -CAcreateserial -days 20 -extfile leaf.ext -out localhost.pem 2>/dev/null
	)
}

step_ca() {
	dir=$1
	chain "$dir"
	cat >"$dir/ca.json" <<-END
		{"root": "$dir/root.pem", "crt": "$dir/issuing.pem", "key": "$dir/issuing.key", "address": "127.0.0.1:19500", "dnsNames": ["localhost", "127.0.0.1"],
		 "logger": {"format": "text"}, "db": {"type": "badgerv2", "dataSource": "$dir/db"},
		 "authority": {"provisioners": [{"type": "ACME", "name": "acme"}]}}
	END
	"$STEP_CA" "$dir/ca.json" --resolver 127.0.0.1:19053 --insecure --acme-http-port 19002 >"$dir/log" 2>&1 &
	server=$!
}

pebble() {
	dir=$1
	chain "$dir"
	cat >"$dir/pebble.json" <<-END
		{"pebble": {"listenAddress": "127.0.0.1:19500", "managementListenAddress": "127.0.0.1:19501", "certificate": "$dir/localhost.pem", "privateKey": "$dir/localhost.key",
		 "httpPort": 19002, "tlsPort": 19001, "ocspResponderURL": "", "externalAccountBindingRequired": false}}
	END
	PEBBLE_VA_NOSLEEP=1 PEBBLE_WFE_NONCEREJECT=0 PEBBLE_AUTHZREUSE=0 "$PEBBLE" -config "$dir/pebble.json" -dnsserver 127.0.0.1:19053 >"$dir/log" 2>&1 &
	server=$!
}

# plane SERIES LABEL PART [flag ...]: one part of the control plane alone.
plane() {
	file=$OUT/$1.jsonl label=$2 part=$3
	shift 3
	echo "== $(basename "$file" .jsonl): $label" >&2
	"$BIN" bench control --ready-file "$dir/ready" --only "$part" --rounds "$ROUNDS" --json "$file" --label "$label" "$@" || [ $? -eq 4 ]
}

# estate N: a server with an inventory of N certificates, at rest. It is filled
# once and used by every series that wants one so large.
estate() {
	if [ -d "$work/estate-$1" ]; then start "$work/estate-$1"; else start "$work/estate-$1" --estate "$1"; fi
	settle
}

control() {
	fresh control
	estate "$ESTATE"
	echo "== control: $ESTATE certificates" >&2
	"$BIN" bench control --ready-file "$dir/ready" --duration "$MIXED" --certificates "$MANAGED" --json "$OUT/control.jsonl" --label "$ESTATE certificates" || [ $? -eq 4 ]
	stop
}

lists() {
	fresh lists
	for n in 10000 "$ESTATE"; do
		estate "$n"
		plane lists "$n certificates" lists --clients 10
		plane lists "$n certificates, unchanged" unchanged --clients 10
		for path in '/certs?limit=50' '/certs?limit=1000&q=expires%3A%3C30d' '/summary' '/inventory/facets' '/inventory/timeline'; do
			"$BIN" bench api --ready-file "$dir/ready" --rounds "$ROUNDS" --clients 10 --json "$OUT/lists.jsonl" --label "$n certificates, $path" "$path" || [ $? -eq 4 ]
		done
		stop
	done
}

heartbeats() {
	fresh heartbeats
	start "$work/$n_dir"
	plane heartbeats "agents" heartbeats --clients 10,50,200
	stop
}

# 20,000 connections would be more than a usual limit of 20,000 open files allows.
agents() {
	fresh agents
	echo "== agents" >&2
	mkdir -p "$work/$n_dir"
	# Parked agents ask again after ten minutes.
	"$BIN" bench agents --agents "${AGENTS:-19800}" --for 11m --scratch "$work/$n_dir" --json "$OUT/agents.jsonl" --label "${AGENTS:-19800} agents"
}

bulk() {
	fresh bulk
	start "$work/$n_dir"
	plane bulk "$MANAGED certificates" bulk --certificates "$MANAGED"
	stop
}

import() {
	fresh import
	start "$work/$n_dir"
	plane import "empty inventory" import --clients 1 --count 20 --duration 10m
	stop
}

starts() {
	rm -f "$OUT/start.jsonl"; n_dir=$((${n_dir:-0} + 1))
	for n in 10000 "$ESTATE"; do
		estate "$n"
		stop
		"$BIN" bench control start "$dir" --json "$OUT/start.jsonl" --label "$n certificates" -- --listen 127.0.0.1:19443 --http-listen 127.0.0.1:19080 --debug-listen 127.0.0.1:19081
	done
}

ocsp() {
	fresh ocsp
	"$BIN" bench ocsp --fill "$STORED" --method GET,POST --clients 1,10,50 --rounds "$ROUNDS" --json "$OUT/ocsp.jsonl" --label "$STORED serials" || [ $? -eq 4 ]
}

renew() {
	fresh renew
	mkdir -p "$work/$n_dir"
	"$BIN" bench renew --scheduled "$ESTATE" --due "$MANAGED" --dir "$work/$n_dir" --json "$OUT/renew.jsonl" --label "$ESTATE scheduled"
}

scan() {
	fresh scan
	for probe in observe fetch; do "$BIN" bench scan --endpoints 20000 --probe $probe --rounds "$ROUNDS" --json "$OUT/scan.jsonl" --label "$probe"; done
}

# ---- PostgreSQL ----

as_postgres() { if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi; }

# postgres starts a cluster of its own, once; it fails if there is none.
postgres() {
	[ -z "$pg" ] || return 0
	pgbin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -1)
	[ -n "$pgbin" ] && [ -x "$pgbin/initdb" ] || { echo "no PostgreSQL here: left out" >&2; return 1; }
	pg=$(mktemp -d "$DISK/chancery-pg.XXXXXX")
	[ "$(id -u)" != 0 ] || chown postgres "$pg"
	as_postgres "$pgbin/initdb" -D "$pg/data" -A trust -U postgres >/dev/null
	as_postgres "$pgbin/pg_ctl" -D "$pg/data" -l "$pg/log" -w -o "-k $pg -h '' -c max_connections=200" start >/dev/null
}

pgpid() { head -1 "$pg/data/postmaster.pid"; }

# database makes an empty one and prints its URL.
database() {
	db=bench$$_$(date +%s%N)
	as_postgres "$pgbin/psql" -q -h "$pg" -U postgres -c "CREATE DATABASE $db" >/dev/null
	echo "postgres://postgres@/$db?host=$pg"
}

mkdir -p "$OUT"
[ $# -gt 0 ] || set -- clients databases peers subjects accounts authorities saturation challenges names pools overload flood stored record ocsp lists starts control heartbeats agents bulk import renew scan
for series in "$@"; do $series; done
