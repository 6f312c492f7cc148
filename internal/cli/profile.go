// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/spf13/cobra"

	"chaperone/internal/api/client"
	"chaperone/internal/connect"
	"chaperone/internal/fault"
	"chaperone/internal/identity"
)

// profile is a signed-in person on this machine: what the issuer said, and beside it the key.
type profile struct {
	client.LoggedIn
	APIURL string `json:"api_url"`
}

const personFile = "person.json"

var profileName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

func (c *cli) profileDir() (string, error) {
	if !profileName.MatchString(c.profile) {
		return "", usage("--profile %q is not a lower-case name", c.profile)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fault.New(fault.Invalid, "cli.profile", "no_home", "no home directory").WithFix("set HOME or XDG_CONFIG_HOME")
	}
	return filepath.Join(configHome(home), "chaperone", "profiles", c.profile), nil
}

// client returns the API client of the profile.
func (c *cli) client() (*client.Client, error) {
	cl, _, err := c.signedIn()
	return cl, err
}

func (c *cli) signedIn() (*client.Client, profile, error) {
	dir, err := c.profileDir()
	if err != nil {
		return nil, profile{}, err
	}
	b, err := os.ReadFile(filepath.Join(dir, personFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, profile{}, fault.New(fault.Unauthenticated, "cli.profile", "not_logged_in", "nobody is signed in under the profile %q", c.profile).
			WithFix("chaperone login --profile %s --code CODE (an operator makes the code with `chaperone person add` or `chaperone person code`)", c.profile)
	}
	if err != nil {
		return nil, profile{}, fault.Wrap("cli.profile", err)
	}
	var p profile
	if err := json.Unmarshal(b, &p); err != nil || p.ClientID == "" {
		return nil, profile{}, fault.New(fault.Invalid, "cli.profile", "profile_damaged", "%s is not what login wrote", filepath.Join(dir, personFile)).
			WithFix("log in again with a new code").WithCause(err)
	}
	key, err := connect.ReadKey(dir)
	if err != nil {
		return nil, profile{}, err
	}
	if url, ok := c.settings()["api_url"]; ok {
		p.APIURL = url
	}
	return client.New(p.APIURL, client.Holder{Key: key, ClientID: p.ClientID, Issuer: p.Issuer}, client.Config{}), p, nil
}

func (c *cli) login() *cobra.Command {
	var code string
	cmd := &cobra.Command{Use: "login", Short: "Bind a new key of yours with a single-use code", Args: cobra.NoArgs,
		Example: "chaperone login --profile ada --code lc_...",
		RunE: func(cmd *cobra.Command, _ []string) error {
			conf, err := c.config()
			if err != nil {
				return err
			}
			dir, err := c.profileDir()
			if err != nil {
				return err
			}
			p, err := login(cmd.Context(), dir, conf.PublicURL, conf.APIURL, code, c.profile)
			if err != nil {
				return err
			}
			return c.show(p, [2]string{"signed in as", p.Name}, [2]string{"profile", p.Profile}, [2]string{"at", p.APIURL})
		}}
	cmd.Flags().StringVar(&code, "code", "", "the single-use code")
	_ = cmd.MarkFlagRequired("code") // fails only for a flag that does not exist
	return cmd
}

// login makes a key, binds it, and only then writes the profile: a refused code leaves an old profile as it was.
func login(ctx context.Context, dir, issuer, api, code, name string) (profile, error) {
	key, err := identity.NewKey()
	if err != nil {
		return profile{}, fault.Wrap("cli.login", err)
	}
	in, err := client.Login(ctx, issuer, key, code, name, client.Config{})
	if err != nil {
		return profile{}, err
	}
	p := profile{LoggedIn: in, APIURL: api}
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return profile{}, fault.Wrap("cli.login", err)
	}
	return p, connect.KeepKey(dir, key, personFile, b)
}
