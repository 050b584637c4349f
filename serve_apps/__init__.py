"""What `serve deploy` and `jobs/deploy_release.py` import: one module per Serve application, and the config that names them."""
