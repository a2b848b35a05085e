FLASK_APP=microblog_api.py
