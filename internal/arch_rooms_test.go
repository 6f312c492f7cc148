// SPDX-License-Identifier: Apache-2.0

package internal_test

// A floor says what a room may know. Imports go down only (docs/architecture.md).
type floor int

const (
	ground   floor = iota // the standard library, and one another
	domain                // pure: ground only, never one another, no I/O, no clock
	cellar                // outside systems: ground, domain and the store's contract
	road                  // use cases: ground, domain and the store's contract; never one another
	door                  // someone knocks: ground, domain, roads, and the doors named below
	hall                  // app, which knows every concrete type
	workshop              // programs that build and test the product; no room imports them
)

var floorNames = [...]string{"ground", "domain", "cellar", "road", "door", "app", "tools"}

// rooms is every room of the house, also those that later work builds. A package under internal that is not here is a
// failure: CONTRIBUTING.md says where code goes and how a room is added.
var rooms = map[string]floor{
	"canon": ground, "fault": ground, "id": ground, "label": ground, "scope": ground, "telemetry": ground, "sse": ground,

	"identity": domain, "people": domain, "run": domain, "policy": domain, "catalog": domain, "approval": domain, "grant": domain,
	"secret": domain, "guard": domain, "baseline": domain, "revocation": domain, "inventory": domain, "audit": domain, "config": domain,
	"message": domain,

	"store": cellar, "store/sql": cellar, "store/storetest": cellar, "ledger": cellar, "bus": cellar, "upstream": cellar, "notify": cellar,
	"keyring": cellar,

	"enforce": road, "admit": road, "govern": road, "watch": road, "duty": road, "evaluate": road,

	"gateway": door, "issuer": door, "api": door, "api/client": door, "console": door, "cli": door, "connect": door,

	"app": hall, "app/apptest": hall,

	"needs": workshop, "tools/testreport": workshop, "tools/mutants": workshop, "tools/figures": workshop, "tools/fuzz": workshop,
}

// mayAlso are the imports that the floors would refuse, each with its reason.
var mayAlso = map[string]map[string]string{
	"ledger":          {"store": "the follower reads the event table in its order"},
	"store/sql":       {"store": "it implements the contract"},
	"store/storetest": {"store": "it tests the contract"},
	"enforce":         {"store": "roads run transactions"},
	"admit":           {"store": "roads run transactions"},
	"govern":          {"store": "roads run transactions"},
	"watch":           {"store": "roads run transactions"},
	"duty":            {"store": "roads run transactions"},
	"evaluate":        {"store": "roads run transactions", "enforce": "it replays calls over the real road", "govern": "it replays changes over the real road"},
	"cli":             {"api/client": "commands go through the API", "connect": "chaperone connect is a command", "config": "law of the house"},
	"api":             {"api/client": "the wire shapes are written once, in the twin"},
	"connect":         {"api/client": "a person's sign-in goes through the API"},
	"app":             {"config": "law of the house"},
	"app/apptest":     {"config": "it configures what it starts"},
}

// groundForDomain is what a domain room may use of the ground.
var groundForDomain = []string{"canon", "fault", "id", "label", "scope", "telemetry"}

// A passport lets a dependency, and everything under its path, into the rooms named. The word tests stands for files
// ending in _test.go, doors for every door, examples for examples/, cmd for cmd/. Test files may use anything that has a passport.
var passports = map[string][]string{
	"github.com/cedar-policy/cedar-go":         {"policy"},
	"github.com/modelcontextprotocol/go-sdk":   {"gateway", "connect", "examples"},
	"modernc.org/sqlite":                       {"store/sql"},
	"github.com/transparency-dev/tessera":      {"ledger"},
	"k8s.io/klog/v2":                           {"ledger"},                     // the log library writes with it; ledger hands its lines to ours
	"golang.org/x/mod":                         {"audit", "ledger", "keyring"}, // keyring hands out the signer of signed notes
	"github.com/go-jose/go-jose/v4":            {"identity", "issuer", "connect"},
	"github.com/santhosh-tekuri/jsonschema/v6": {"catalog"},
	"github.com/knadh/koanf":                   {"config"},
	"go.yaml.in/yaml/v3":                       {"config", "catalog", "policy", "cli"},
	"golang.org/x/text":                        {"guard"},
	"golang.org/x/net/idna":                    {"guard"},
	"golang.org/x/sync/errgroup":               {"app", "doors"},
	"golang.org/x/term":                        {"cli"},
	"golang.org/x/crypto/chacha20poly1305":     {"keyring"},
	"charm.land/fang/v2":                       {"cli"},
	"github.com/spf13/cobra":                   {"cli"},
	"github.com/google/go-cmp":                 {"tests", "store/storetest"},
	"pgregory.net/rapid":                       {"tests", "store/storetest"},
	"go.uber.org/goleak":                       {"tests"},
	"github.com/rogpeppe/go-internal":          {"tests"},

	// Of the standard library, what says that a room does something it should not.
	"database/sql":  {"store/sql"},
	"net/http":      {"doors", "upstream", "notify", "app", "app/apptest", "cmd", "examples"},
	"html/template": {"console", "api"},
	"text/template": {"console", "api", "cli"},
	"testing":       {"tests", "store/storetest", "app/apptest", "needs"},
	"unsafe":        {},
	"C":             {},
	"expvar":        {},
	"plugin":        {},
}

// impure are the packages that do I/O; no domain room imports one (config reads the file it is given by name).
var impure = []string{"os", "os/exec", "os/signal", "os/user", "net", "net/rpc", "net/smtp", "syscall", "log", "io/ioutil"}

var mayDoIO = map[string]string{"config": "it reads the configuration file"}

// clocks are the functions of package time that a domain room never calls: now is a parameter.
var clocks = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

// The sizes. A file aims at 400 lines.
const (
	maxFileLines    = 600
	maxPackageLines = 2500
	maxPackageFiles = 12
	maxMethods      = 6
	maxOwnImports   = 4 // rooms that a domain room imports
)

// Those who may be larger, each with its reason.
var (
	manyFiles = map[string]string{"enforce": "one file a step of the road"}
	manyLines = map[string]string{
		"govern":  "every action of people, each decided, checked and committed in the same few lines",
		"enforce": "the whole road in one room, so that it can be read in the order it is walked",
	}
	manyMethods = map[string]string{"store.Tx": "one accessor a room"}
)

// badWords name nothing; a package or exported name made with one wants a noun of the glossary.
var badWords = []string{"manager", "helper", "util", "utils", "common", "misc"}
