#!/bin/sh
# Measures everything that docs/performance.md shows, into *.jsonl beside this
# file. About an hour on a quiet machine; single series: record.sh clients ...
#
#   COUNT, ROUNDS, WARMUP, CLIENTS   make it shorter (COUNT=20 ROUNDS=1 ...)
#   STORED                           certificates of the series "stored"
#   SECONDS_OVER                     time of the series "overload"
#   DISK, MEM                        directories on a disk and in memory
#   BIN                              the program, bin/chancery
#
# PostgreSQL is started from its own programs if they are installed.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
BIN=${BIN:-$here/../../bin/chancery}
COUNT=${COUNT:-5000} ROUNDS=${ROUNDS:-3} WARMUP=${WARMUP:-3s} CLIENTS=${CLIENTS:-1,5,10,25,50,100,200}
STORED=${STORED:-1000000} SECONDS_OVER=${SECONDS_OVER:-20} DISK=${DISK:-${TMPDIR:-/tmp}} MEM=${MEM:-/dev/shm} OUT=${OUT:-$here}
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
	CHANCERY_LOG_LEVEL=${LOG_LEVEL:-info} "$BIN" dev --data "$dir" --ready-file "$dir/ready" --no-limits --listen 127.0.0.1:19443 --http-listen 127.0.0.1:19080 \
		--debug-listen 127.0.0.1:19081 --http01-port 19002 --tlsalpn01-port 19001 --resolver 127.0.0.1:19053 "$@" >"$dir/log" 2>&1 &
	server=$!
	tries=0
	until [ -s "$dir/ready" ]; do
		tries=$((tries + 1))
		kill -0 "$server" 2>/dev/null && [ $tries -lt 600 ] || { tail -5 "$dir/log" >&2; exit 1; }
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
	(sleep 5; curl -s -o "$work/cpu.pb" "http://127.0.0.1:19081/debug/pprof/profile?seconds=10") &
	ROUNDS=1 COUNT=$((COUNT * 4)) measure record "the record" --clients 50
	wait $! || true
	if [ -s "$work/cpu.pb" ] && command -v go >/dev/null; then
		go tool pprof -top -cum -nodecount 300 "$BIN" "$work/cpu.pb" 2>/dev/null | grep -E 'Total samples|flat%|VerifyASN1|SignASN1|runBatch|liteConn\)\.(call|raw)$|Xfsync|server\.\(\*Server\)\.(validate|post|posted|newOrder|finalize|postChallenge|postAuthz|getCertificate|admit)$|ca\.\(\*Service\)\.(lint|plan|execute)$|gcBgMarkWorker$|readRequest$|mallocgc$|tls\.\(\*Conn\)\.(Read|Write)$' >"$OUT/profile.txt" || true
	fi
	stop
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
[ $# -gt 0 ] || set -- clients databases subjects accounts authorities saturation challenges names pools overload stored record
for series in "$@"; do $series; done
