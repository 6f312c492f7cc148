// SPDX-License-Identifier: Apache-2.0

package issuer

import (
	"net/http"

	"chaperone/internal/identity"
)

type enrolled struct {
	ClientID    string `json:"client_id"`
	Instance    string `json:"instance"`
	Agent       string `json:"agent"`
	AgentName   string `json:"agent_name"`
	AgentType   string `json:"agent_type"`
	Issuer      string `json:"issuer"`
	TrustDomain string `json:"trust_domain"`
	LogOrigin   string `json:"log_origin"`
	LogKey      string `json:"log_key"`
}

// enroll is POST /enroll {"code"}: a join code binds the key of the DPoP proof to a new instance.
func (d *Door) enroll(w http.ResponseWriter, r *http.Request) error {
	presented, err := d.presented(r)
	if err != nil {
		return err
	}
	var in struct {
		Code string `json:"code"`
	}
	if err := readJSON(r, &in); err != nil {
		return err
	}
	instance, agent, err := d.deps.Road.Enrol(r.Context(), in.Code, presented)
	if err != nil {
		return err
	}
	return write(w, http.StatusCreated, "application/json", enrolled{
		ClientID: identity.InstanceSPIFFE(d.cfg.TrustDomain, agent.Name, instance.ID), Instance: instance.ID.String(),
		Agent: agent.ID.String(), AgentName: agent.Name, AgentType: agent.Type,
		Issuer: d.cfg.Issuer, TrustDomain: d.cfg.TrustDomain, LogOrigin: d.cfg.LogOrigin, LogKey: d.cfg.LogKey,
	})
}

type loggedIn struct {
	ClientID    string `json:"client_id"`
	Person      string `json:"person"`
	Name        string `json:"name"`
	Profile     string `json:"profile"`
	Issuer      string `json:"issuer"`
	TrustDomain string `json:"trust_domain"`
	LogOrigin   string `json:"log_origin"`
	LogKey      string `json:"log_key"`
}

// login is POST /login {"code", "profile"}: a login code binds the key of the DPoP proof to a person.
func (d *Door) login(w http.ResponseWriter, r *http.Request) error {
	presented, err := d.presented(r)
	if err != nil {
		return err
	}
	var in struct {
		Code    string `json:"code"`
		Profile string `json:"profile"`
	}
	if err := readJSON(r, &in); err != nil {
		return err
	}
	person, err := d.deps.Road.BindPerson(r.Context(), in.Code, in.Profile, presented)
	if err != nil {
		return err
	}
	return write(w, http.StatusCreated, "application/json", loggedIn{
		ClientID: identity.PersonSPIFFE(d.cfg.TrustDomain, person.Name), Person: person.ID.String(), Name: person.Name, Profile: in.Profile,
		Issuer: d.cfg.Issuer, TrustDomain: d.cfg.TrustDomain, LogOrigin: d.cfg.LogOrigin, LogKey: d.cfg.LogKey,
	})
}
